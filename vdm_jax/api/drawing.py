"""Samples and edited images of a model, in batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from vdm_jax import arguments, conditioning, frozen
from vdm_jax import config as configs
from vdm_jax.api import batches, inputs, outputs, programs
from vdm_jax.api.batches import Batching
from vdm_jax.conditioning import Conditions
from vdm_jax.core import chain as chains
from vdm_jax.core.method import Method
from vdm_jax.errors import UserError
from vdm_jax.methods import classifier_guidance
from vdm_jax.runtime import memory

# w of the only guidable condition, or of several by name; numbers or [count]
Weights = float | np.ndarray | Mapping[str, float | np.ndarray]


class Settings(NamedTuple):
    """A config with the method that it builds, and the parameters."""

    config: ConfigDict
    method: Method
    params: Any


class Guide(NamedTuple):
    """A guiding classifier and the scale of its gradient, a number or [count]."""

    classifier: Settings
    scale: Any


def changed(model: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return a model with other settings of sampling and evaluation; None leaves a field unchanged."""
    chosen = tuple((name, value) for name, value in changes.items() if value is not None)
    if not chosen:
        return model
    table = configs.field_table()
    for name, value in chosen:
        named = isinstance(table[name].default, str)
        if not isinstance(value, str if named else int | np.integer) or isinstance(value, bool):
            kind = "a name" if named else "an integer"
            raise UserError(f"{name.split('.')[-1]}={value!r} must be {kind}, as in config.{name}")
    old = FrozenConfigDict(model.config)
    new = programs.changed(old, tuple((name, v if isinstance(v, str) else int(v)) for name, v in chosen))
    return model if new == old else Settings(ConfigDict(new), programs.method_of(new, model.method.init), model.params)


def samples(
    model: Settings,
    count: int,
    seed: int,
    guidance_weight: Weights,
    guide: Guide | None,
    trajectory: bool,
    passed: Mapping[str, Any],
    how: Batching,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw samples [count, …] and, with `trajectory`, the latents [num_steps, count, …]; see `Model.sample`."""
    config, method, params = model
    if method.sample is None:
        raise UserError(f"a model of method {config.method!r} draws no samples")
    steps = config.sampling.num_steps
    memory.check_samples("count", count, tuple(config.data.shape), steps if trajectory else 0)
    conditions, draw = method.conditions, method.sample
    if guide is not None:
        scale = arguments.for_each("classifier_scale", guide.scale, count)
        conditions, draw = _guided(model, guide.classifier)
        params = {**params, classifier_guidance.CLASSIFIER: guide.classifier.params}
    if not any(c.needs_evaluation_data for c in conditions):  # they have values of their own
        requested = conditioning.defaults(conditions, config, count)
        passed = {**requested, **{k: v for k, v in passed.items() if v is not None}}
    values = conditioning.from_user(conditions, passed, count, method.encode)
    cond: Any = conditioning.guided(conditions, values, guidance_weight, count)
    program = programs.sampler(draw, steps, tuple(range(steps)) if trajectory else ())
    rows = {"cond": cond if guide is None else (cond, scale)}
    [(drawn, path, *evaluations)] = batches.run(program, params, [jax.random.key(seed)], rows, count, how)
    chains.check_solved(config.sampling.get("tolerance", 0.0), *evaluations)
    chains.check_finite(drawn)
    return outputs.images(config, drawn), np.moveaxis(path, 1, 0)


def edited(
    model: Settings,
    images: np.ndarray,
    edit: programs.Edit,
    seed: int,
    labels: Any,
    passed: Mapping[str, Any],
    how: Batching,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """Return images [N, …] that a wrapped sampler makes of images; known: the mask [N, …] to inpaint by."""
    config, method, params = model
    if method.chain is None:
        raise UserError(f"a model of method {config.method!r} has no sampling steps, so it cannot edit images")
    columns = inputs.conditions(method, labels, len(images), passed)
    x = jnp.asarray(images)
    cond = conditioning.of_batch(method.conditions, {"x": x, "cond": columns}, method.encode)
    rows = {"x": images, "cond": cond, **({} if known is None else {"known": known})}
    program = programs.editor(method.chain, method.encode, edit)
    [drawn] = batches.run(program, params, [jax.random.key(seed)], rows, len(images), how)
    chains.check_finite(drawn)
    return outputs.images(config, drawn if known is None else np.where(known, images, drawn))


def _guided(model: Settings, classifier: Settings) -> tuple[Conditions, Any]:
    """Return the conditions and the sampler of a model that is guided by a classifier."""
    frozen.check_classifier(model.config, classifier.config, "that was passed")
    configs = FrozenConfigDict(model.config), FrozenConfigDict(classifier.config)
    return programs.guided(*configs, (model.method.init, classifier.method.init))
