"""The terms of the variational bound, each per example in nats, and their weightings (VDM, §4).

    −log p(x) ≤ E[−log p(x|z_0)]  +  KL(q(z_1|x) ‖ p(z_1))  +  L_T(x)
                reconstruction       prior                      diffusion

    L_T = ½ T E[expm1(γ_t − γ_s) ‖ε − ε̂‖²],    L_∞ = ½ E[γ′_t ‖ε − ε̂‖²]

A diffusion loss is a weight times a squared error; the functions here return the weights, so that
every objective is `weight * squared_error`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion import decoders
from vdm_jax.diffusion.process import VP, Noise, Process, q_sample, sum_except_batch


def reconstruction(x: Array, f: Array, eps: Array, level: Noise, vocabulary: int | None) -> Array:
    """−log p(x|z_0) at z_0 = α_0 f + σ_0 ε, [B] nats (VDM, §3.3).

    x: data [B, …]; f: its encoding; eps: standard normal; level: γ_0, scalar fields.
    """
    return -decoders.log_prob(x, q_sample(f, eps, level), level, vocabulary)


def prior(f: Array, gamma_1: Array, process: Process = VP) -> Array:
    """KL(N(α_1 f, σ_1² I) ‖ N(0, s² I)) = ½ Σ [(α_1² f² + σ_1²)/s² − 1 − log(σ_1²/s²)], [B] nats."""
    variance = process.prior_variance(gamma_1)
    mean = process.alpha(gamma_1) * f / jnp.sqrt(variance)
    excess = jnp.square(process.sigma(gamma_1)) / variance - 1
    return 0.5 * sum_except_batch(jnp.square(mean) + (excess - jnp.log1p(excess)))


def squared_error(target: Array, prediction: Array) -> Array:
    """‖target − prediction‖², [B]."""
    return sum_except_batch(jnp.square(target - prediction))


def continuous_weight(dgamma: Array) -> Array:
    """½ γ′_t: L_∞ = E_t[½ γ′_t ‖ε − ε̂‖²] (VDM eq. 17)."""
    return 0.5 * dgamma


def discrete_weight(delta: Array, num_timesteps: int) -> Array:
    """½ T expm1(γ_t − γ_s): L_T = E_i[½ T expm1(γ_t − γ_s) ‖ε − ε̂‖²] (VDM eq. 14).

    delta = γ_t − γ_s from `Schedule.delta`, never from two γ.
    """
    return 0.5 * num_timesteps * jnp.expm1(delta)


def x_weight(snr_delta: Array, num_timesteps: int) -> Array:
    """½ T (SNR(s) − SNR(t)): the same loss on ‖x − x̂‖² (VDM eq. 13)."""
    return 0.5 * num_timesteps * snr_delta


def snr_delta(gamma_t: Array, delta: Array) -> Array:
    """SNR(s) − SNR(t) = e^{−γ_t} expm1(γ_t − γ_s)."""
    return jnp.exp(-gamma_t) * jnp.expm1(delta)


def weighted(dgamma: Array, weighting: Callable[[Array], Array], gamma: Array) -> Array:
    """½ γ′_t w(e^{−γ_t}): the weighted loss ½ ∫ w(v) ‖x − x̂‖² dv of VDM §5.2, v = SNR."""
    return 0.5 * dgamma * weighting(jnp.exp(-gamma))


def simple_weight(t: Array) -> Array:
    """1: DDPM's L_simple, E_t ‖ε − ε̂‖², which is the weighted loss with w(SNR(t)) = 2/γ′(t)."""
    return jnp.ones_like(t)


def bits_per_dim(nats: Array, dimensions: int) -> Array:
    """nats per example → bits per dimension."""
    return nats / (dimensions * jnp.log(2.0))


def error_per_dim(error: Array, like: Array) -> Array:
    """‖ε − ε̂‖²/D, [B]; the denoiser's mean squared error m(t), which is 1 for ε̂ = 0."""
    return error / (like.size // like.shape[0])
