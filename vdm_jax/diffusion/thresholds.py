"""Thresholds of x̂, with ε̂ following so that z = α x̂ + σ ε̂: they wrap a `Predict`, guided or not.

Guidance drives x̂ out of the range of the data, and the sampler on from there (Saharia et al. 2022, Imagen, §2.3).
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion.prediction import Prediction, clipped, with_x
from vdm_jax.diffusion.process import Noise, expand
from vdm_jax.diffusion.samplers import Predict


def static(predict: Predict, limit: float = 1.0) -> Predict:
    """x̂ clipped to [−limit, limit]."""
    if not limit > 0:
        raise ValueError(f"x is clipped to [-limit, limit], which needs limit > 0, not {limit}")

    return lambda z, level: clipped(predict(z, level), z, level, limit)


def dynamic(predict: Predict, percentile: float = 99.5, limit: float = 1.0) -> Predict:
    """x̂ clipped to [−a, a] and scaled by limit/a, a = max(percentile of |x̂| in its image, limit).

    Saturated pixels are pushed inwards with all others, instead of staying at the edge.
    """
    if not (0 < percentile <= 100 and limit > 0):
        raise ValueError(f"needs a percentile in (0, 100] and a limit > 0, not {percentile} and {limit}")

    def scaled(z: Array, level: Noise) -> Prediction:
        found = predict(z, level)
        size = jnp.abs(found.x).reshape(len(z), -1)
        a = expand(jnp.maximum(jnp.quantile(size, percentile / 100, axis=1), limit), z.ndim)
        return with_x(found, jnp.clip(found.x, -a, a) * (limit / a), z, level)

    return scaled
