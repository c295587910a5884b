"""One step of the reverse process as a Gaussian, and its terms of the bound.

    p(z_s|z_t) = N(μ_Q(z_t, x̂), Σ),      Σ = β̃ = σ_Q²,  β = σ²_{t|s},  or learned between them,
    log Σ = w log β + (1 − w) log β̃,   w = (v + 1)/2        (Nichol & Dhariwal 2021, eq. 15)

    −log p(x) ≤ Σ_{ℓ ≥ 2} KL(q(z_{ℓ−1}|z_ℓ, x) ‖ p(z_{ℓ−1}|z_ℓ)) − log p(x|z_1) + KL(q(z_T|x) ‖ N(0, I))

with a discretised Gaussian for the last step, whose target is the data itself (Ho et al. 2020, §3.3). w is not
clamped: the variance of the true reverse step may lie outside [β̃, β].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion.decoders import discretised_gaussian
from vdm_jax.diffusion.prediction import Prediction
from vdm_jax.diffusion.process import expand, posterior, sum_except_batch
from vdm_jax.diffusion.samplers import Predict, Step, Transition, normal

VARIANCES = ("posterior", "beta", "learned")


def log_variances(step: Transition) -> tuple[Array, Array]:
    """(log β̃, log β) of a step, of the shape of its fields; where s is the data log β̃ is the step's floor."""
    log_shrink = jnp.log(-jnp.expm1(-step.delta))
    at_data = step.to.sigma == 0
    below = jnp.where(at_data, 1.0, step.to.sigma)
    return jnp.where(at_data, step.floor, log_shrink + 2 * jnp.log(below)), log_shrink + 2 * jnp.log(step.frm.sigma)


def moments(z: Array, prediction: Prediction, step: Transition, variance: str) -> tuple[Array, Array]:
    """Mean and log-variance of p(z_s|z_t), [B, …] each.

    variance: one of VARIANCES. 'beta' at the last step is β̃'s floor, which gives the better log p(x|z_1).
    """
    mean, _ = posterior(z, prediction.eps, step.frm, step.to, step.delta)
    small, large = log_variances(step)
    if variance == "learned":
        if prediction.variance_head is None:
            raise ValueError("a learned variance needs a network with a variance head")
        w = (prediction.variance_head + 1) / 2
        return mean, w * expand(large, z.ndim) + (1 - w) * expand(small, z.ndim)
    log_variance = {"posterior": small, "beta": jnp.where(step.to.sigma == 0, small, large)}[variance]
    return mean, jnp.broadcast_to(expand(log_variance, z.ndim), z.shape)


def ancestral(predict: Predict, variance: str) -> Step:
    """z_s ~ p(z_s|z_t); without noise where s is the data (Ho et al. 2020, algorithm 2)."""

    def step(keys: Array, z: Array, transition: Transition) -> Array:
        mean, log_variance = moments(z, predict(z, transition.frm), transition, variance)
        noisy = (transition.to.sigma > 0).astype(z.dtype)
        return mean + expand(noisy, z.ndim) * jnp.exp(0.5 * log_variance) * normal(keys, z)

    return step


def log_density(z: Array, mean: Array, log_variance: Array) -> Array:
    """log N(z; mean, exp(log_variance)) of every entry, nats; all of one shape."""
    square = jnp.square(z - mean) * jnp.exp(-log_variance)
    return -0.5 * (square + log_variance + math.log(2 * math.pi))


def gaussian_kl(mean: Array, log_variance: Array, mean_p: Array, log_variance_p: Array) -> Array:
    """KL(N(mean, e^log_variance) ‖ N(mean_p, e^log_variance_p)), summed over all but the batch: [B] nats."""
    excess = log_variance - log_variance_p
    square = jnp.square(mean - mean_p) * jnp.exp(-log_variance_p)
    return 0.5 * sum_except_batch(square + jnp.expm1(excess) - excess)


def bound_term(
    log_likelihood: Callable[[Array, Array], Array],
    z: Array,
    eps: Array,
    prediction: Prediction,
    step: Transition,
    variance: str,
) -> Array:
    """The bound's term of each example's step, [B] nats: a KL, or −log p(x|z_1) where s is the data.

    z = α_t f + σ_t ε; step: fields [B]. log_likelihood: (mean, log-variance) of p(z_0|z_1) → log p(x|z_1), of every
    dimension: `discretised` or `density`.
    """
    true_mean, _ = posterior(z, eps, step.frm, step.to, step.delta)
    true_log_variance = jnp.broadcast_to(expand(log_variances(step)[0], z.ndim), z.shape)
    mean, log_variance = moments(z, prediction, step, variance)
    kl = gaussian_kl(true_mean, true_log_variance, mean, log_variance)
    decoder = -sum_except_batch(log_likelihood(mean, log_variance))
    return jnp.where(step.to.sigma == 0, decoder, kl)


def discretised(x: Array, vocabulary: int, cdf: str = "exact") -> Callable[[Array, Array], Array]:
    """log p(x|z_1) of levels x [B, …]: a Gaussian cut into bins (`decoders.discretised_gaussian`)."""
    return lambda mean, log_variance: discretised_gaussian(x, mean, 0.5 * log_variance, vocabulary, cdf)


def density(x: Array) -> Callable[[Array, Array], Array]:
    """log p(x|z_1) of real numbers x [B, …]: the Gaussian's density."""
    return lambda mean, log_variance: log_density(x, mean, log_variance)
