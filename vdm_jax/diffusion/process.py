"""The forward process in γ = −log SNR: q(z_t|x), q(z_t|z_s), q(z_s|z_t, x).

    q(z_t | x)      = N(α_t x, σ_t² I),      σ_t²/α_t² = e^{γ_t}
    q(z_t | z_s)    = N(α_{t|s} z_s, σ²_{t|s} I),      α_{t|s} = α_t/α_s,   σ²_{t|s} = −expm1(−δ) σ_t²
    q(z_s | z_t, x) = N(μ_Q, σ_Q² I),                  σ_Q² = −expm1(−δ) σ_s²

with s < t and δ = γ_t − γ_s > 0, which the schedule computes without cancellation (VDM, eq. 1–4 and
appendix A). A process defines only α and σ as functions of γ; everything else is common to all processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array


class Process(NamedTuple):
    """A forward process: α, σ and the prior as elementwise functions of γ."""

    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]
    dlog_alpha: Callable[[Array], Array]  # d log α / dγ, the drift of the flow
    prior_variance: Callable[[Array], Array]  # of p(z_1), from γ_1


def _alpha_vp(gamma: Array) -> Array:
    return jnp.exp(0.5 * jax.nn.log_sigmoid(-gamma))


def _sigma_vp(gamma: Array) -> Array:
    return jnp.exp(0.5 * jax.nn.log_sigmoid(gamma))


# Variance preserving: α² = sigmoid(−γ), σ² = sigmoid(γ), p(z_1) = N(0, I).
VP = Process(_alpha_vp, _sigma_vp, lambda g: -0.5 * jax.nn.sigmoid(g), jnp.ones_like)

# Variance exploding: α = 1, σ² = e^γ. Its prior has variance 1 + e^{γ_1}, which gives the same
# prior term as VP's N(0, I).
VE = Process(jnp.ones_like, lambda g: jnp.exp(0.5 * g), jnp.zeros_like, lambda g1: 1 + jnp.exp(g1))


def _alpha_sub_vp(gamma: Array) -> Array:
    """Solve α² + g α = 1 with g = σ/α = e^{γ/2}, without cancellation."""
    g = jnp.exp(0.5 * gamma)
    return 2 / (g + jnp.sqrt(jnp.square(g) + 4))


def _dlog_alpha_sub_vp(gamma: Array) -> Array:
    g = jnp.exp(0.5 * gamma)
    return -0.5 * g / (2 * _alpha_sub_vp(gamma) + g)


# Sub-variance preserving: σ = 1 − α² (Song et al. 2021, eq. 29: α = e^{−B/2}, σ = 1 − e^{−B}), p(z_1) = N(0, I).
SUB_VP = Process(_alpha_sub_vp, lambda g: jnp.exp(0.5 * g) * _alpha_sub_vp(g), _dlog_alpha_sub_vp, jnp.ones_like)


class Noise(NamedTuple):
    """A noise level: γ with its α, σ and the time input t of the network; each field is [B] or a scalar.

    The method sets t, in the units that the network was trained on.
    """

    gamma: Array
    alpha: Array
    sigma: Array
    t: Array


def expand(a: Array, ndim: int) -> Array:
    """Reshape [B] to [B, 1, …, 1] with ndim axes; scalars are returned as is."""
    return a if a.ndim == 0 else a.reshape(a.shape + (1,) * (ndim - a.ndim))


def sum_except_batch(a: Array) -> Array:
    """Sum over all axes except the batch: [B, …] → [B]."""
    return jnp.sum(a, axis=tuple(range(1, a.ndim)))


def noise(gamma: Array, t: Array, process: Process = VP) -> Noise:
    """Make the noise level of γ; gamma and t have the same shape."""
    return Noise(gamma, process.alpha(gamma), process.sigma(gamma), t)


def q_sample(x: Array, eps: Array, level: Noise) -> Array:
    """Return z_t = α_t x + σ_t ε (VDM eq. 1). x, eps: [B, …]; level: [B]."""
    chex.assert_equal_shape([x, eps])
    return expand(level.alpha, x.ndim) * x + expand(level.sigma, x.ndim) * eps


def forward_coefficients(frm: Noise, to: Noise, delta: Array) -> tuple[Array, Array]:
    """Return (α_{t|s}, σ_{t|s}) of q(z_t|z_s).

    Args:
        frm: The noise level s.
        to: The noise level t > s.
        delta: γ_t − γ_s > 0.
    """
    by_sigma = jnp.exp(-0.5 * delta) * to.sigma / jnp.where(frm.sigma > 0, frm.sigma, 1.0)
    alpha = jnp.where(_by_sigma(frm, to), by_sigma, to.alpha / frm.alpha)
    return alpha, to.sigma * jnp.sqrt(-jnp.expm1(-delta))


def _by_sigma(s: Noise, t: Noise) -> Array:
    """Return True where α_t/α_s = e^{−δ/2} σ_t/σ_s is more accurate than the direct ratio.

    In float32, γ ≈ 20 is accurate to 10⁻⁶, the relative error of α is no smaller, and σ near 1 is accurate to 10⁻⁷.
    """
    return (t.alpha < t.sigma) & (t.sigma <= 1) & (s.sigma > 0)


def posterior(z: Array, eps: Array, frm: Noise, to: Noise, delta: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation of q(z_s|z_t, x = (z_t − σ_t ε)/α_t) (VDM, appendix A.4).

        μ_Q = (α_s/α_t) (z_t + expm1(−δ) σ_t ε),      σ_Q = σ_s √(−expm1(−δ))

    Step rules use `posterior_of_x` instead: here the two terms cancel where α_t is nearly 0, and α_s/α_t amplifies
    the rounding error.

    Args:
        z: The latent z_t, [B, …].
        eps: The noise ε, [B, …].
        frm: The noise level t.
        to: The noise level s < t.
        delta: γ_t − γ_s > 0.

    Returns:
        (μ_Q [B, …], σ_Q [B]).
    """
    shrink = jnp.expm1(-delta)
    ratio = expand(to.alpha / frm.alpha, z.ndim)
    mean = ratio * (z + expand(shrink * frm.sigma, z.ndim) * eps)
    return mean, posterior_deviation(to, delta)


def posterior_of_x(z: Array, x: Array, frm: Noise, to: Noise, delta: Array) -> tuple[Array, Array]:
    """Return the mean and standard deviation of `posterior` from x, which is accurate at all noise levels.

        μ_Q = −expm1(−δ) α_s x + e^{−δ} (α_s/α_t) z_t

    The coefficients are DDPM's √ᾱ_s β/(1 − ᾱ_t) and √α (1 − ᾱ_s)/(1 − ᾱ_t), positive and at most 1 for VP. Where x
    is clipped, ε = (z_t − α_t x)/σ_t has the rounding errors of z_t, and `posterior` multiplies them by α_s/α_t, up
    to 10⁴ at the start of a chain with few noise levels. Where x = (z_t − σ_t ε)/α_t has these errors, amplified by
    1/α_t, both forms return them times α_s.

    Args:
        z: The latent z_t, [B, …].
        x: Encoded data or a prediction of it, [B, …].
        frm: The noise level t.
        to: The noise level s < t.
        delta: γ_t − γ_s > 0.

    Returns:
        (μ_Q [B, …], σ_Q [B]).
    """
    of_x = -jnp.expm1(-delta) * to.alpha
    by_alpha, by_sigma = jnp.exp(-delta) * to.alpha / frm.alpha, jnp.exp(-0.5 * delta) * to.sigma / frm.sigma
    of_z = jnp.where(_by_sigma(to, frm), by_sigma, by_alpha)
    return expand(of_x, z.ndim) * x + expand(of_z, z.ndim) * z, posterior_deviation(to, delta)


def posterior_deviation(to: Noise, delta: Array) -> Array:
    """Return σ_Q = σ_s √(−expm1(−δ)), the standard deviation of q(z_s|z_t, x)."""
    return to.sigma * jnp.sqrt(-jnp.expm1(-delta))


def flow(z: Array, eps: Array, level: Noise, process: Process = VP) -> Array:
    """Return dz/dγ = (d log α/dγ) z + ½ σ ε̂ of the probability-flow ODE (Song et al. 2021, eq. 13, in γ).

    For VP this is ½ (σ ε̂ − σ² z). z, eps: [B, …].
    """
    drift = expand(process.dlog_alpha(level.gamma), z.ndim)
    return drift * z + 0.5 * expand(level.sigma, z.ndim) * eps
