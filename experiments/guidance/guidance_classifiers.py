"""Bits/dim of a conditional model given the label or ∅, and the classifier that is implicit in it.

The chain above level s, started at z_s instead of the data, is itself a diffusion with

    z_ℓ = α_{ℓ|s} z_s + σ_{ℓ|s} ε,      ε̂ of this ε:  (σ_{ℓ|s}/σ_ℓ) ε̂(z_ℓ, c),      γ_{ℓ|s} = log σ²_{ℓ|s}/α²_{ℓ|s}

so that −½ Σ_ℓ expm1(γ_{ℓ|s} − γ_{ℓ−1|s}) ‖ε − (σ_{ℓ|s}/σ_ℓ) ε̂_c‖² bounds log p(z_s|c) up to a constant (the first
term, from the decoder, has the factor 1), and the best label by it classifies z_s as p(c) p(z_s|c) does.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments import models
from experiments.guidance.guidance_models import compiled_once
from vdm_jax import data
from vdm_jax.conditioning.label import NAME as LABEL
from vdm_jax.diffusion import losses, tables
from vdm_jax.diffusion.process import Noise, expand, q_sample
from vdm_jax.evaluation import features
from vdm_jax.keys import example_keys
from vdm_jax.methods import classifier, ddpm
from vdm_jax.runtime.devices import put_batch, replicated, round_up

SIZE = 100  # images per batch


def test_images(model: models.Model, count: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the first `count` (0: all) images of the test split and their labels."""
    section = model.config.data
    return features.images_and_labels(data.load(section.name, "test", path=section.path), count)


def in_batches(model: models.Model, arrays: dict[str, Any], run: Any, size: int = SIZE) -> np.ndarray:
    """Apply `run` to batches [size, …] with 'index', the last one padded, and concatenate its rows."""
    count = len(jax.tree.leaves(arrays)[0])
    size, parts = round_up(min(size, count), model.mesh), []
    for first in range(0, count, size):
        index = np.arange(first, first + size)
        rows = jax.tree.map(lambda a, index=index: a[index % count], arrays)
        batch = {**rows, "index": index.astype(np.int32)}
        parts.append(np.asarray(run(put_batch(model.mesh, batch)), np.float64))
    return np.concatenate(parts)[:count]


def bits_per_dim(model: models.Model, seed: int, passes: int) -> dict[str, np.ndarray]:
    """Return the bounds of the test images, [N], given their labels and given ∅, with the same noise.

    For a model without labels there is only the latter.
    """
    pictures, labels = test_images(model)
    null = model.config.model.num_classes
    terms = ddpm.model(model.config).bits_per_dim

    def run(params: Any, batch: dict[str, Array], key: Array) -> Array:
        return terms(params, batch, example_keys(key, batch["index"]))["total"]

    step = compiled_once(("bits",), model, run)
    given = {"conditional": labels, "unconditional": np.full_like(labels, null)}
    if not null:
        del given["conditional"]
    keys = [jax.random.fold_in(jax.random.key(seed), number) for number in range(passes)]
    return {
        name: np.mean(
            [
                in_batches(
                    model,
                    {"x": pictures, "cond": {LABEL: of.astype(np.int32)}},
                    lambda b, key=key: step(model.params, b, key),
                )
                for key in keys
            ],
            axis=0,
        )
        for name, of in given.items()
    }


def noisy(model: models.Model, level: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return z_s [N, …] of test images at the level of this index, from 0, and their labels."""
    made = ddpm.model(model.config)
    pictures, labels = test_images(model, count)
    x = np.asarray(made.encode(jnp.asarray(pictures)))
    eps = np.random.default_rng([seed, level]).standard_normal(x.shape).astype(x.dtype)
    return np.asarray(q_sample(jnp.asarray(x), jnp.asarray(eps), made.table.level(jnp.asarray(level)))), labels


def trained_logits(guide: models.Model, z: np.ndarray, level: int) -> np.ndarray:
    """Return the logits of the noisy classifier, [N, K]."""
    made = classifier.model(guide.config)

    def run(params: Any, batch: dict[str, Array], index: Array) -> Array:
        of = made.diffusion.table.level(jnp.broadcast_to(index, batch["index"].shape))
        return made.logits(params, batch["index"])(batch["z"], of)

    step = compiled_once(("logits",), guide, run)
    return in_batches(guide, {"z": z}, lambda batch: step(guide.params, batch, np.int32(level)))


def implicit_logits(model: models.Model, z: np.ndarray, level: int, noises: int, seed: int) -> np.ndarray:
    """Return the bound on log p(z_s|c) of every label up to a constant, [N, K], with the same noise for all labels.

    `noises` levels above s, shared by the images, are drawn in proportion to the factor of their term times α²,
    because terms vanish with the signal: cosine β ends with a factor of 999 at α ≈ 0. x̂ is clipped, as for bits/dim.
    """
    made, classes = ddpm.model(model.config), model.config.model.num_classes
    gamma = tables.gammas(made.betas[level + 1 :])
    weights = np.concatenate([[1.0], np.expm1(np.diff(gamma))])
    p = weights * np.cumprod(1 - made.betas)[level + 1 :]
    p, rng = p / p.sum(), np.random.default_rng([seed, level, noises])
    chosen = np.searchsorted(np.cumsum(p)[:-1], (rng.random() + np.arange(noises)) / noises)

    def run(params: Any, batch: dict[str, Array], of: Noise, alpha: Array, sigma: Array) -> Array:
        z_l = alpha * batch["z"] + sigma * batch["eps"]
        every = jnp.tile(jnp.arange(classes), len(z_l))
        again = lambda a: jnp.repeat(a, classes, axis=0)
        of = jax.tree.map(lambda a: jnp.broadcast_to(a, every.shape), of)
        found = made.evaluated(made.denoise(params)(again(z_l), of, {LABEL: every}), again(z_l), of)
        error = losses.squared_error(again(batch["eps"]), expand(sigma / of.sigma, z_l.ndim) * found.eps)
        return error.reshape(-1, classes)

    step = compiled_once(("implicit",), model, run)
    total = np.zeros((len(z), classes))
    for number in chosen:
        keep = 1 / (1 + math.exp(gamma[number]))  # α²_{ℓ|s}
        scalars = np.sqrt(np.array([keep, 1 - keep], np.float32))
        of = jax.device_put(made.table.level(jnp.asarray(level + 1 + number)), replicated(model.mesh))
        eps = rng.standard_normal(z.shape).astype(z.dtype)
        error = in_batches(
            model, {"z": z, "eps": eps}, lambda batch, of=of, s=scalars: step(model.params, batch, of, *s), SIZE // 5
        )
        total += 0.5 * weights[number] / (noises * p[number]) * error
    return -total
