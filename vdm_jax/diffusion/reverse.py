"""One step of the reverse process as a Gaussian, and its terms of the bound.

    p(z_s|z_t) = N(μ_Q(z_t, x̂), Σ),      log Σ = w log β + (1 − w) log β̃,      β̃ = σ_Q²,  β = σ²_{t|s}

with w = 0 or 1, a constant in between (v of Ho & Salimans 2022, §3: .3 at 64², .2 at 128²), or w = (v + 1)/2 with v
predicted for every channel and pixel (Nichol & Dhariwal 2021, eq. 15).

    −log p(x) ≤ Σ_{ℓ ≥ 2} KL(q(z_{ℓ−1}|z_ℓ, x) ‖ p(z_{ℓ−1}|z_ℓ)) − log p(x|z_1) + KL(q(z_T|x) ‖ N(0, I))

with a discretized Gaussian for the last step, whose target is the data itself (Ho et al. 2020, §3.3). A learned w is
not clamped: the variance of the true reverse step may lie outside [β̃, β].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion.decoders import discretized_gaussian
from vdm_jax.diffusion.prediction import Prediction, x_from_eps
from vdm_jax.diffusion.process import expand, posterior_of_x, sum_except_batch
from vdm_jax.diffusion.samplers import Predict, Step, Transition, normal

VARIANCES = ("posterior", "beta", "learned")

# (z_t [B, …], transition) → mean and log-variance of p(z_s|z_t), [B, …] each
Reverse = Callable[[Array, Transition], tuple[Array, Array]]


def log_variances(step: Transition) -> tuple[Array, Array]:
    """Return (log β̃, log β) in the shape of the fields of `step`; where s is the data, log β̃ is the step's floor."""
    log_shrink = jnp.log(-jnp.expm1(-step.delta))
    at_data = step.to.sigma == 0
    below = jnp.where(at_data, 1.0, step.to.sigma)
    return jnp.where(at_data, step.floor, log_shrink + 2 * jnp.log(below)), log_shrink + 2 * jnp.log(step.frm.sigma)


def between(small: Array, large: Array, w: Array | float) -> Array:
    """Interpolate log Σ = w log β + (1 − w) log β̃ from log β̃ and log β."""
    return w * large + (1 - w) * small


def moments(z: Array, prediction: Prediction, step: Transition, variance: str | float) -> tuple[Array, Array]:
    """Return mean and log-variance of p(z_s|z_t), [B, …] each.

    Args:
        z: The latent z_t, [B, …].
        prediction: x̂, and the variance head if the variance is learned.
        step: The transition from t to s.
        variance: One of VARIANCES, or a constant w ∈ [0, 1]. For a constant w, the last step uses the floor of β̃,
            which gives the better log p(x|z_1).

    Raises:
        ValueError: The variance is learned, but the network has no variance head.
    """
    mean, _ = posterior_of_x(z, prediction.x, step.frm, step.to, step.delta)
    small, large = log_variances(step)
    if variance == "learned":
        if prediction.variance_head is None:
            raise ValueError("a learned variance needs a network with a variance head")
        return mean, between(expand(small, z.ndim), expand(large, z.ndim), (prediction.variance_head + 1) / 2)
    w = {"posterior": 0.0, "beta": 1.0}[variance] if isinstance(variance, str) else variance
    log_variance = jnp.where(step.to.sigma == 0, small, between(small, large, w))
    return mean, jnp.broadcast_to(expand(log_variance, z.ndim), z.shape)


def gaussian(predict: Predict, variance: str | float) -> Reverse:
    """Make p(z_s|z_t) from a denoiser, for `drawn` and `guidance.mean_shift`; variance: as in `moments`."""
    return lambda z, transition: moments(z, predict(z, transition.frm), transition, variance)


def drawn(reverse: Reverse) -> Step:
    """Make a step that samples z_s ~ p(z_s|z_t), without noise where s is the data (Ho et al. 2020, algorithm 2)."""

    def step(keys: Array, z: Array, transition: Transition) -> Array:
        mean, log_variance = reverse(z, transition)
        noisy = (transition.to.sigma > 0).astype(z.dtype)
        return mean + expand(noisy, z.ndim) * jnp.exp(0.5 * log_variance) * normal(keys, z)

    return step


def ancestral(predict: Predict, variance: str | float) -> Step:
    """Make a step that samples z_s ~ p(z_s|z_t) of a denoiser; variance: as in `moments`."""
    return drawn(gaussian(predict, variance))


def log_density(z: Array, mean: Array, log_variance: Array) -> Array:
    """Return log N(z; mean, exp(log_variance)) per entry, nats; all arguments have the same shape."""
    square = jnp.square(z - mean) * jnp.exp(-log_variance)
    return -0.5 * (square + log_variance + math.log(2 * math.pi))


def gaussian_kl(mean: Array, log_variance: Array, mean_p: Array, log_variance_p: Array) -> Array:
    """Return KL(N(mean, e^log_variance) ‖ N(mean_p, e^log_variance_p)) summed over all axes but the batch, [B] nats."""
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
    """Return the term of the bound for the step of each example, [B] nats: a KL, or −log p(x|z_1) where s is the data.

    Args:
        log_likelihood: (mean, log-variance) of p(z_0|z_1) → log p(x|z_1) per dimension: `discretized` or `density`.
        z: The latent z_t = α_t f + σ_t ε, [B, …].
        eps: The noise ε, [B, …].
        prediction: The denoiser's output at z.
        step: The transition from t to s, with fields of shape [B].
        variance: One of VARIANCES.
    """
    # the same formula as for the model's mean, so that common rounding errors cancel
    true_mean, _ = posterior_of_x(z, x_from_eps(z, eps, step.frm), step.frm, step.to, step.delta)
    true_log_variance = jnp.broadcast_to(expand(log_variances(step)[0], z.ndim), z.shape)
    mean, log_variance = moments(z, prediction, step, variance)
    kl = gaussian_kl(true_mean, true_log_variance, mean, log_variance)
    decoder = -sum_except_batch(log_likelihood(mean, log_variance))
    return jnp.where(step.to.sigma == 0, decoder, kl)


def discretized(x: Array, vocabulary: int, cdf: str = "exact") -> Callable[[Array, Array], Array]:
    """Return log p(x|z_1) for pixel values x [B, …]: a discretized Gaussian (`decoders.discretized_gaussian`)."""
    return lambda mean, log_variance: discretized_gaussian(x, mean, 0.5 * log_variance, vocabulary, cdf)


def density(x: Array) -> Callable[[Array, Array], Array]:
    """Return log p(x|z_1) for continuous data x [B, …]: a Gaussian density."""
    return lambda mean, log_variance: log_density(x, mean, log_variance)
