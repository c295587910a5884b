"""Samples and edited images of a model, in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from vdm_jax.runtime import memory

# w of the only guidable condition, or of several by name; numbers or [count]
Weights = float | np.ndarray | Mapping[str, float | np.ndarray]


class Settings(NamedTuple):
    """A config with the method that it builds, and the parameters."""

    config: ConfigDict
    method: Method
    params: Any


class Guide(NamedTuple):
    """A guiding model, its key in `programs.GUIDES`, and the scale of its gradient, a number or [count]."""

    key: str
    model: Settings
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
    guides: Sequence[Guide],
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
    scales = {guide.key: arguments.for_each(f"{guide.key}_scale", guide.scale, count) for guide in guides}
    if guides:
        conditions, draw = _guided(model, guides)
        params = {**params, **{guide.key: guide.model.params for guide in guides}}
    if not any(c.needs_evaluation_data for c in conditions):  # they have values of their own
        left = [c for c in conditions if passed.get(c.name) is None]
        requested = conditioning.defaults(left, config, count)
        passed = {**requested, **{k: v for k, v in passed.items() if v is not None}}
    values = conditioning.from_user(conditions, passed, count, method.encode)
    cond: Any = conditioning.guided(conditions, values, guidance_weight, count)
    program = programs.sampler(draw, steps, tuple(range(steps)) if trajectory else ())
    rows = {"cond": (cond, scales) if guides else cond}
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


def _guided(model: Settings, guides: Sequence[Guide]) -> tuple[Conditions, Any]:
    """Return the conditions and the sampler of a model that is guided."""
    check = {"classifier": frozen.check_classifier, "clip": frozen.check_clip}
    for guide in guides:
        check[guide.key](model.config, guide.model.config, "that was passed")
    named = tuple((guide.key, FrozenConfigDict(guide.model.config)) for guide in guides)
    inits = (model.method.init, *(guide.model.method.init for guide in guides))
    return programs.guided(FrozenConfigDict(model.config), named, inits)
