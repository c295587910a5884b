"""Gaussian data x ~ N(0, s² I) with the exact denoiser ε̂ = E[ε|z]: the library's losses and their exact values.

ε̂ = σ z/(α² s² + σ²),      E‖ε − ε̂‖²/D = m(γ) = sigmoid(ln s² − γ)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vdm_jax.diffusion import losses
from vdm_jax.diffusion.process import expand, noise, q_sample


def mean_error(gamma: np.ndarray | float, variance: float) -> np.ndarray:
    """Return m(γ), float64."""
    return 1 / (1 + np.exp(np.asarray(gamma, np.float64)) / variance)


def squared_error(key: Array, gamma: Array, dimensions: int, variance: float) -> Array:
    """Return ‖ε − ε̂‖² [B] for random x and ε at noise levels gamma [B]; x and ε depend only on the key."""
    x_key, eps_key = jax.random.split(key)
    x = jnp.sqrt(variance) * jax.random.normal(x_key, (len(gamma), dimensions))
    eps = jax.random.normal(eps_key, x.shape)
    level = noise(gamma, jnp.zeros_like(gamma))
    gain = level.sigma / (jnp.square(level.alpha) * variance + jnp.square(level.sigma))
    return losses.squared_error(eps, expand(gain, 2) * q_sample(x, eps, level))


def bound(gamma_0: float, gamma_1: float, variance: float, steps: int = 0) -> float:
    """Return L_T in nats/dim for γ linear in t, or L_∞ if steps is 0."""
    if not steps:
        snr = lambda gamma: np.log1p(variance * np.exp(-gamma))
        return float(0.5 * (snr(gamma_0) - snr(gamma_1)))
    gamma = gamma_0 + (gamma_1 - gamma_0) * np.arange(1, steps + 1) / steps
    return float(0.5 * np.expm1((gamma_1 - gamma_0) / steps) * mean_error(gamma, variance).sum())


def loss_variance(gamma: np.ndarray, dgamma: np.ndarray, dimensions: int, variance: float) -> float:
    """Return Var(½ γ′ ‖ε − ε̂‖²) over t, x and ε in nats², from γ and γ′ at the midpoints of equal parts of [0, 1].

    ‖ε − ε̂‖² is m(γ) times a χ² with D degrees of freedom: E[L²|t] = (γ′ m/2)² (D² + 2D).
    """
    half = 0.5 * np.asarray(dgamma, np.float64) * mean_error(gamma, variance)
    return float((dimensions**2 + 2 * dimensions) * np.mean(half**2) - (dimensions * np.mean(half)) ** 2)


def best_path(t: np.ndarray, gamma_0: float, gamma_1: float, variance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (γ, γ′) with γ′ m(γ) constant, which minimizes Var(L): softplus(ln s² − γ) is linear in t."""
    softplus = lambda gamma: np.logaddexp(0, np.log(variance) - gamma)
    start, end = softplus(gamma_0), softplus(gamma_1)
    gamma = np.log(variance) - np.log(np.expm1(start + (end - start) * np.asarray(t, np.float64)))
    return gamma, (start - end) / mean_error(gamma, variance)
