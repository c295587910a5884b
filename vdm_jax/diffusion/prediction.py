"""Conversion of network outputs, shared by losses, samplers and likelihoods: ε ↔ x ↔ v ↔ score.

    z = α x + σ ε,      v = α ε − σ x (Salimans & Ho 2022),      score = ∇ log q(z|x) = −ε/σ

ε is always the noise of all steps up to t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion.process import Noise, expand

KINDS = ("eps", "x", "v", "score", "velocity")

# (z [B, …], level, conditioning) → raw output [B, …]
Denoise = Callable[[Array, Noise, Any], Array]


class Prediction(NamedTuple):
    """x̂ and ε̂ of one network call, [B, …], and the raw variance head where there is one (see `reverse`)."""

    x: Array
    eps: Array
    variance_head: Array | None = None


def x_from_eps(z: Array, eps: Array, level: Noise) -> Array:
    """Return x = (z − σ ε)/α."""
    return (z - expand(level.sigma, z.ndim) * eps) / expand(level.alpha, z.ndim)


def eps_from_x(z: Array, x: Array, level: Noise) -> Array:
    """Return ε = (z − α x)/σ."""
    return (z - expand(level.alpha, z.ndim) * x) / expand(level.sigma, z.ndim)


def v_from(x: Array, eps: Array, level: Noise) -> Array:
    """Return v = α ε − σ x."""
    return expand(level.alpha, x.ndim) * eps - expand(level.sigma, x.ndim) * x


def score_from_eps(eps: Array, level: Noise) -> Array:
    """Return the score ∇ log q(z) = −ε/σ, where σ is cumulative."""
    return -eps / expand(level.sigma, eps.ndim)


def split(raw: Array, z: Array, level: Noise, kind: str = "eps") -> Prediction:
    """Convert a raw network output to (x̂, ε̂) with z = α x̂ + σ ε̂.

    For v any α² + σ² is allowed: x̂ = (α z − σ v)/(α² + σ²), ε̂ = (σ z + α v)/(α² + σ²).

    Args:
        raw: Network output, [B, …, C] as z, or [B, …, 2C] if a variance head is concatenated.
        z: Noisy data, [B, …, C].
        level: Noise level of z.
        kind: The target that the network predicts, one of KINDS.

    Raises:
        ValueError: The kind is not one of KINDS.
    """
    alpha, sigma = expand(level.alpha, z.ndim), expand(level.sigma, z.ndim)
    v = None
    if raw.shape[-1] == 2 * z.shape[-1]:
        raw, v = jnp.split(raw, 2, axis=-1)
    chex.assert_equal_shape([raw, z])
    if kind == "eps":
        x, eps = x_from_eps(z, raw, level), raw
    elif kind == "x":
        x, eps = raw, eps_from_x(z, raw, level)
    elif kind == "v":
        total = jnp.square(alpha) + jnp.square(sigma)
        x, eps = (alpha * z - sigma * raw) / total, (sigma * z + alpha * raw) / total
    elif kind == "velocity":  # ε − x; where α + σ = 1, as in `rectified_flow`, that is dz/dt
        total = alpha + sigma
        x, eps = (z - sigma * raw) / total, (z + alpha * raw) / total
    elif kind == "score":
        eps = -sigma * raw
        x = x_from_eps(z, eps, level)
    else:
        raise ValueError(f"prediction kind {kind!r} is not one of {KINDS}")
    return Prediction(x, eps, v)


def with_x(found: Prediction, x: Array, z: Array, level: Noise) -> Prediction:
    """Replace x̂ [B, …] of a prediction and recompute ε̂, so that z = α x̂ + σ ε̂."""
    return found._replace(x=x, eps=eps_from_x(z, x, level))


def clipped(found: Prediction, z: Array, level: Noise, limit: float = 1.0) -> Prediction:
    """Clip x̂ to [−limit, limit] and recompute ε̂."""
    return with_x(found, jnp.clip(found.x, -limit, limit), z, level)
