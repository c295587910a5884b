"""Static and dynamic thresholding of x̂: wrappers of a `Predict`, guided or not.

ε̂ is recomputed so that z = α x̂ + σ ε̂. Guidance drives x̂ out of the range of the data, and the sampler then diverges
further from it (Saharia et al. 2022, Imagen, §2.3).
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion.prediction import Prediction, clipped, with_x
from vdm_jax.diffusion.process import Noise, expand
from vdm_jax.diffusion.samplers import Predict


def static(predict: Predict, limit: float = 1.0) -> Predict:
    """Clip x̂ to [−limit, limit]."""
    if not limit > 0:
        raise ValueError(f"limit={limit} must be greater than 0: x is clipped to [-limit, limit]")

    return lambda z, level: clipped(predict(z, level), z, level, limit)


def dynamic(predict: Predict, percentile: float = 99.5, limit: float = 1.0) -> Predict:
    """Clip x̂ to [−a, a] and scale it by limit/a, where a = max(percentile of |x̂| in its image, limit).

    Saturated pixels move inward with all others, instead of staying at the limit.
    """
    if not (0 < percentile <= 100 and limit > 0):
        raise ValueError(
            f"dynamic thresholding needs a percentile in (0, 100] and a limit > 0, not {percentile} and {limit}"
        )

    def scaled(z: Array, level: Noise) -> Prediction:
        prediction = predict(z, level)
        size = jnp.abs(prediction.x).reshape(len(z), -1)
        a = expand(jnp.maximum(jnp.quantile(size, percentile / 100, axis=1), limit), z.ndim)
        return with_x(prediction, jnp.clip(prediction.x, -a, a) * (limit / a), z, level)

    return scaled
