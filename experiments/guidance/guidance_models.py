"""The models of `guidance_tradeoff` and guided sampling, compiled once for all strengths.

All models share images and noise levels. Models that are conditioned on labels also support ∅, so that the
conditional model is the classifier-free one at w = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax import Array

from experiments import models
from vdm_jax.conditioning import Guided
from vdm_jax.conditioning.label import NAME as LABEL
from vdm_jax.core import chain as chains
from vdm_jax.diffusion import guidance, reverse, thresholds
from vdm_jax.keys import example_keys
from vdm_jax.methods import classifier, ddpm
from vdm_jax.presets.guidance import CLASSIFIER
from vdm_jax.runtime.devices import put_batch, replicated, round_up, under

FILES = {"mini": "experiments/ddpm/mini_ddpm.py", "paper": "configs/adm_imagenet64.py"}
CLASSES = {"mini": 10, "paper": 1000}
# Fields of all roles.
SHARED: dict[str, dict[str, Any]] = {
    "mini": {
        "model.width": 16,
        "training.num_steps": 800,
        "training.checkpoint_every": 800,
        "optimizer.learning_rate": 2e-3,
        "evaluation.levels": 32,
    },
    "paper": {},
}
# Fields of the noisy classifier.
SIZES: dict[str, dict[str, Any]] = {
    "mini": {"training.num_steps": 600, "training.checkpoint_every": 600},
    "paper": {
        **CLASSIFIER,
        "data.batch_size": 1024,
        "model.depth": 4,
        "training.num_steps": 300_000,
        "optimizer.learning_rate": 6e-4,
        "optimizer.weight_decay": 0.2,
    },
}


class Draw(NamedTuple):
    """How samples are drawn, except for the guidance strength.

    Attributes:
      by: 'labels' (unguided), 'classifier-free', or the use of a classifier's gradient: in the mean, times the learned
        'Σ' or 'β'; in the 'score' after x̂ is clipped (the order of guided diffusion), or before: 'score, then clipped'.
      steps: the number of steps.
      percentile: the percentile of dynamic thresholding; 0 for clipping.
    """

    by: str
    steps: int
    percentile: float = 0.0


def overrides(scale: str, role: str, p_uncond: float = 0.1) -> dict[str, Any]:
    """Return the config fields of the role 'unconditional', 'classifier-free' or 'classifier'."""
    own: dict[str, Any] = {"model.num_classes": CLASSES[scale]}
    if role == "classifier-free":
        own |= {"model.null_class": True, "training.label_dropout": p_uncond}
    elif role == "classifier":
        own |= {"method": "classifier", "optimizer.weight_decay": 0.2, "evaluation.weights": "raw"} | SIZES[scale]
    else:
        own["model.num_classes"] = 0
    return {**SHARED[scale], **own}


def identity(scale: str, role: str, p_uncond: float = 0.1) -> dict[str, Any]:
    """Return the entry for a model in the JSON of a row."""
    return {"role": role, **models.identity(FILES[scale], overrides(scale, role, p_uncond))}


def trained(of: Mapping[str, Any], seed: int, workdir: epath.Path) -> models.Model:
    """Return the trained model of an identity."""
    return _trained(of["file"], tuple(of["overrides"].items()), seed, workdir)


@lru_cache(maxsize=8)
def _trained(file: str, changes: tuple[tuple[str, Any], ...], seed: int, workdir: epath.Path) -> models.Model:
    return models.trained(models.load_config(file, {**dict(changes), "training.seed": seed}), workdir)


def chain(
    draw: Draw,
    model: models.Model,
    guide: models.Model | None,
    params: Any,
    guide_params: Any,
    labels: Array,
    strength: Array,
) -> chains.Chain:
    """Return a guided chain of ancestral steps.

    Args:
      draw: how samples are drawn.
      model: the diffusion model.
      guide: the guiding classifier, or None.
      params: parameters of the model.
      guide_params: parameters of the classifier.
      labels: labels [b].
      strength: the guidance weight w, or the classifier scale s, [b].
    """
    fields = {"clip": True, "percentile": draw.percentile, "sampler": "ancestral", "respacing": ""}
    config = models.with_fields(model.config, {f"sampling.{name}": value for name, value in fields.items()})
    made = ddpm.model(config)
    cond: Any = {LABEL: labels}
    if draw.by == "classifier-free":
        cond = Guided(cond, {LABEL: strength})
    if guide is None:
        return made.chain(params, cond, draw.steps)
    gradient = guidance.class_gradient(classifier.model(guide.config).logits(guide_params, labels), labels)
    guided = made.chain(params, cond, draw.steps, gradient, strength)
    if draw.by == "Σ":
        return guided
    unclipped = models.with_fields(config, {"sampling.clip": False})
    source = unclipped if draw.by == "score, then clipped" else config
    predict = (made if source is config else ddpm.model(source)).predictor(made.denoise(params), cond)
    learned = reverse.gaussian(predict, config.model.variance)
    if draw.by == "β":
        shifted = guidance.mean_shift(reverse.gaussian(predict, "beta"), gradient, classifier_scale=strength)
        return guided._replace(step=reverse.drawn(lambda z, step: (shifted(z, step)[0], learned(z, step)[1])))
    predict = guidance.classifier(predict, gradient, classifier_scale=strength)
    predict = predict if source is config else thresholds.static(predict)
    return guided._replace(step=reverse.ancestral(predict, config.model.variance))


_PROGRAMS: dict[Any, Callable[..., Any]] = {}


def compiled_once(key: tuple[Any, ...], model: models.Model, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the jitted function, cached for models that differ only in their weights and training."""
    key = (*key, model.config.method, model.config.model.to_json(), tuple(model.config.data.shape), model.mesh)
    if key not in _PROGRAMS:
        _PROGRAMS[key] = jax.jit(under(model.mesh, function), out_shardings=replicated(model.mesh))
    return _PROGRAMS[key]


def program(draw: Draw, model: models.Model, guide: models.Model | None = None) -> Callable[..., Array]:
    """Return (params, params of the classifier, seed, {'index', 'labels', 'strength': [b]}) → samples [b, …]."""

    def run(params: Any, guide_params: Any, seed: Array, batch: dict[str, Array]) -> Array:
        made = chain(draw, model, guide, params, guide_params, batch["labels"], batch["strength"])
        return chains.run(made, example_keys(jax.random.key(seed), batch["index"]))[0]

    return compiled_once((draw, guide is None), model, run)


def images(
    draw: Draw, model: models.Model, guide: models.Model | None, strength: float, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw samples that cycle through the classes, uint8 [count, …]; return them and their labels."""
    run, size = program(draw, model, guide), round_up(min(count, 500), model.mesh)
    classes = guide.config.model.num_classes if guide else model.config.model.num_classes
    guide_params = guide.params if guide else {}
    parts, labels = [], np.arange(count) % max(classes, 1)
    for first in range(0, count, size):
        index = first + np.arange(size, dtype=np.int32)
        batch = {"index": index, "labels": (index % max(classes, 1)).astype(np.int32)}
        batch["strength"] = np.full(size, strength, np.float32)
        parts.append(np.asarray(run(model.params, guide_params, np.uint32(seed), put_batch(model.mesh, batch))))
    return np.concatenate(parts)[:count], labels
