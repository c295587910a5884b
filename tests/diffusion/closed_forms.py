"""What is known in closed form for x ~ N(0, s² I) with the exact denoiser, and schedules to try.

Errors are per dimension and in nats unless said otherwise; s² is called `variance`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import prediction, schedules
from vdm_jax.diffusion.process import VP, Noise, Process, expand, noise

GAMMA_0, GAMMA_1, VARIANCE = -13.3, 5.0, 1 / 3


def level(gamma, process: Process = VP) -> Noise:
    gamma = jnp.asarray(gamma)
    return noise(gamma, gamma, process)


def exact_eps(z, level: Noise, variance: float = VARIANCE):
    """E[ε|z] = σ z / (σ² + α² s²)."""
    factor = level.sigma / (level.sigma**2 + level.alpha**2 * variance)
    return expand(factor, z.ndim) * z


def exact_predict(variance: float = VARIANCE):
    """The exact denoiser as samplers.Predict."""
    return lambda z, level: prediction.split(exact_eps(z, level, variance), z, level)


def marginal(level: Noise, variance: float = VARIANCE):
    """Var z_t = α² s² + σ²."""
    return level.alpha**2 * variance + level.sigma**2


def error(gamma, variance: float = VARIANCE):
    """E (ε − ε̂)² = sigmoid(ln s² − γ)."""
    return 1 / (1 + np.exp(np.asarray(gamma, np.float64)) / variance)


def l_infinity(gamma_0: float = GAMMA_0, gamma_1: float = GAMMA_1, variance: float = VARIANCE) -> float:
    """½ ∫ error dγ = ½ ln((1 + s² e^{−γ₀}) / (1 + s² e^{−γ₁}))."""
    return 0.5 * math.log((1 + variance * math.exp(-gamma_0)) / (1 + variance * math.exp(-gamma_1)))


def log_normal(x, variance):
    """log N(x; 0, variance I), [B] nats."""
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    return -0.5 * np.sum(x**2 / variance + np.log(2 * np.pi * variance), axis=1)


def monotone(gamma_0, gamma_1, seed: int = 0, features: int = 64, scale: float = 1.0) -> schedules.Schedule:
    """A monotone schedule far from the identity."""
    keys = jax.random.split(jax.random.key(seed), 3)
    rate, bias, out = (jax.random.normal(k, (features,)) for k in keys)
    shape = schedules.Monotone(jnp.ones(()), 2 * scale * rate, 2 * bias, scale * out)
    return schedules.Schedule(jnp.asarray(gamma_0), jnp.asarray(gamma_1), shape)


def fresh_monotone(gamma_0, gamma_1, features: int = 64) -> schedules.Schedule:
    """A monotone schedule as training starts it."""
    shape = schedules.Monotone(**schedules.init_monotone(jax.random.key(0), features))
    return schedules.Schedule(jnp.asarray(gamma_0), jnp.asarray(gamma_1), shape)


def as_float64(tree):
    """Leaves with the same values in float64; inside jax.enable_x64."""
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), tree)


MAKERS = {
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "monotone": monotone,
    "fresh_monotone": fresh_monotone,
}
