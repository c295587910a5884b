"""The terms of the variational bound, each per example in nats, and their weightings (VDM, §4).

    −log p(x) ≤ E[−log p(x|z_0)]  +  KL(q(z_1|x) ‖ p(z_1))  +  L_T(x)
                reconstruction       prior                      diffusion

    L_T = ½ T E[expm1(γ_t − γ_s) ‖ε − ε̂‖²],    L_∞ = ½ E[γ′_t ‖ε − ε̂‖²]

A diffusion loss is a weight times a squared error; the functions here return the weights, so that
every objective is `weight * squared_error`.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion import decoders
from vdm_jax.diffusion.process import VP, Noise, Process, q_sample, sum_except_batch


def reconstruction(x: Array, f: Array, eps: Array, level: Noise, vocabulary: int | None) -> Array:
    """Return −log p(x|z_0) at z_0 = α_0 f + σ_0 ε, [B] nats (VDM, §3.3).

    Args:
        x: Data, [B, …].
        f: Encoded data, [B, …].
        eps: Standard normal noise, [B, …].
        level: The noise level γ_0, with scalar fields.
        vocabulary: Number V of pixel values; None for continuous data.
    """
    return -decoders.log_prob(x, q_sample(f, eps, level), level, vocabulary)


def prior(f: Array, gamma_1: Array, process: Process = VP) -> Array:
    """Return KL(N(α_1 f, σ_1² I) ‖ N(0, s² I)) = ½ Σ [(α_1² f² + σ_1²)/s² − 1 − log(σ_1²/s²)], [B] nats.

    Args:
        f: Encoded data, [B, …].
        gamma_1: γ at t = 1, a scalar.
        process: The forward process, which determines α_1, σ_1 and the prior variance s².
    """
    variance = process.prior_variance(gamma_1)
    mean = process.alpha(gamma_1) * f / jnp.sqrt(variance)
    excess = jnp.square(process.sigma(gamma_1)) / variance - 1
    return 0.5 * sum_except_batch(jnp.square(mean) + (excess - jnp.log1p(excess)))


def squared_error(target: Array, prediction: Array) -> Array:
    """Return ‖target − prediction‖², [B]; both are [B, …]."""
    chex.assert_equal_shape([target, prediction])
    return sum_except_batch(jnp.square(target - prediction))


def continuous_weight(dgamma: Array) -> Array:
    """Return ½ γ′_t, the weight of L_∞ = E_t[½ γ′_t ‖ε − ε̂‖²] (VDM eq. 17)."""
    return 0.5 * dgamma


def discrete_weight(delta: Array, num_timesteps: int) -> Array:
    """Return ½ T expm1(γ_t − γ_s), the weight of L_T = E_i[½ T expm1(γ_t − γ_s) ‖ε − ε̂‖²] (VDM eq. 14).

    Args:
        delta: γ_t − γ_s from `Schedule.delta`, never a difference of two γ.
        num_timesteps: T.
    """
    return 0.5 * num_timesteps * jnp.expm1(delta)


def x_weight(snr_delta: Array, num_timesteps: int) -> Array:
    """Return ½ T (SNR(s) − SNR(t)), the weight of the same loss on ‖x − x̂‖² (VDM eq. 13)."""
    return 0.5 * num_timesteps * snr_delta


def snr_delta(gamma_t: Array, delta: Array) -> Array:
    """Return SNR(s) − SNR(t) = e^{−γ_t} expm1(γ_t − γ_s)."""
    return jnp.exp(-gamma_t) * jnp.expm1(delta)


def weighted(dgamma: Array, weighting: Callable[[Array], Array], gamma: Array) -> Array:
    """Return ½ γ′_t w(e^{−γ_t}), the weight on ‖ε − ε̂‖² of ½ ∫ w(v) ‖x − x̂‖² dv, v = SNR (VDM §5.2)."""
    return 0.5 * dgamma * weighting(jnp.exp(-gamma))


def simple_weight(t: Array) -> Array:
    """Return 1, the weight of DDPM's L_simple = E_t ‖ε − ε̂‖²: the weighted loss with w(SNR(t)) = 2/γ′(t)."""
    return jnp.ones_like(t)


def bits_per_dim(nats: Array, dimensions: int) -> Array:
    """Convert nats per example to bits/dim."""
    return nats / (dimensions * jnp.log(2.0))


def error_per_dim(error: Array, like: Array) -> Array:
    """Return the mean squared error ‖ε − ε̂‖²/D of the denoiser, [B]; its expectation is 1 for ε̂ = 0."""
    return error / (like.size // like.shape[0])
