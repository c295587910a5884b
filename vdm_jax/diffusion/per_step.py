"""Alternative regression targets (the noise of one step, z_s), and the bound along a sampled path.

    z_t = α_{t|s} z_s + σ_{t|s} ε_step,      z_t = α_t x + σ_t ε

Everywhere else in this library ε is the noise of all steps up to t (Ho et al. 2020). At fixed z_t, predictions of
ε, of ε_step and of z_s are equivalent, because each E[·|z_t] is a function of the score ∇log q(z_t):

    E[ε_step|z_t] = −σ_{t|s} ∇log q(z_t) = √(−expm1(−δ)) E[ε|z_t]
    E[z_s|z_t]    = (z_t − σ_{t|s} E[ε_step|z_t])/α_{t|s}

As regression targets they differ: a network can explain only a fraction O(σ²_{t|s}) of the variance of ε_step.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vdm_jax.diffusion.process import expand, forward_coefficients, posterior_of_x, sum_except_batch
from vdm_jax.diffusion.reverse import Reverse, gaussian_kl, log_density, log_variances
from vdm_jax.diffusion.samplers import Transition


def step_share(step: Transition) -> Array:
    """Return σ_{t|s}/σ_t = √(−expm1(−δ)), the ratio of E[ε_step|z_t] to E[ε|z_t]."""
    return jnp.sqrt(-jnp.expm1(-step.delta))


def step_eps_from_eps(eps: Array, step: Transition) -> Array:
    """Convert ε̂ [B, …], the noise of all steps, to ε̂_step."""
    return expand(step_share(step), eps.ndim) * eps


def eps_from_step_eps(step_eps: Array, step: Transition) -> Array:
    """Convert ε̂_step [B, …], the noise of one step, to ε̂."""
    return step_eps / expand(step_share(step), step_eps.ndim)


def previous_from_step_eps(z: Array, step_eps: Array, step: Transition) -> Array:
    """Return z_s = (z_t − σ_{t|s} ε_step)/α_{t|s}, for samples and for predictions. z, step_eps: [B, …]."""
    alpha, sigma = forward_coefficients(step.to, step.frm, step.delta)
    return (z - expand(sigma, z.ndim) * step_eps) / expand(alpha, z.ndim)


def step_eps_from_previous(z: Array, previous: Array, step: Transition) -> Array:
    """Return ε_step = (z_t − α_{t|s} z_s)/σ_{t|s}. z = z_t, previous = z_s: [B, …]."""
    alpha, sigma = forward_coefficients(step.to, step.frm, step.delta)
    return (z - expand(alpha, z.ndim) * previous) / expand(sigma, z.ndim)


class Weights(NamedTuple):
    """Weights of the squared error of each prediction in the bound, nats."""

    eps: Array
    step_eps: Array
    previous: Array


def weights(log_variance: Array, step: Transition) -> Weights:
    """Return the weights that turn each squared error into ‖E[z_s|z_t] − μ_p‖²/(2Σ), with Σ = exp(log_variance).

    z_s: 1/(2Σ),      ε_step: σ²_{t|s}/(2Σ α²_{t|s}),      ε: σ⁴_{t|s}/(2Σ α²_{t|s} σ_t²)

    The last is β²/(2σ²α(1 − ᾱ)) in the notation of Ho et al. (2020, eq. 12).
    """
    alpha, sigma = forward_coefficients(step.to, step.frm, step.delta)
    previous = 0.5 * jnp.exp(-log_variance)
    step_eps = previous * jnp.square(sigma / alpha)
    return Weights(step_eps * jnp.square(step_share(step)), step_eps, previous)


def forward_path(x: Array, step_eps: Array, steps: Transition) -> Array:
    """Sample the forward chain and return it in the order of a sampler: z_T, …, z_1, x.

    Args:
        x: Encoded data, [B, …].
        step_eps: Standard normal noise of each step, [T, B, …].
        steps: Transitions from the last noise level to the data, [T].

    Returns:
        The path, [T + 1, B, …].
    """

    def body(z: Array, now: tuple[Array, Transition]) -> tuple[Array, Array]:
        eps, step = now
        alpha, sigma = forward_coefficients(step.to, step.frm, step.delta)
        z = alpha * z + sigma * eps
        return z, z

    _, path = lax.scan(body, x, (step_eps, steps), reverse=True)
    return jnp.concatenate([path, x[None]])


def log_normal(z: Array, mean: Array, log_variance: Array) -> Array:
    """Return log N(z; mean, exp(log_variance)), [B] nats; z, mean, log_variance: [B, …]."""
    return sum_except_batch(log_density(z, mean, log_variance))


def path_bound(path: Array, reverse: Reverse, steps: Transition, prior_variance: Array | float = 1.0) -> Array:
    """Return −log p(z_T) − Σ log [p(z_s|z_t)/q(z_t|z_s)] along a path, [B] nats.

    Its mean bounds −log p(x) for continuous data x = path[−1]. If p(z_T) = N(0, prior_variance I) and p(z_s|z_t) are
    the exact marginal and reverse conditionals of the data, it equals −log p(x) on every path.

    Args:
        path: The output of `forward_path`, [T + 1, B, …].
        reverse: The reverse process p(z_s|z_t).
        steps: Transitions from the last noise level to the data, [T].
        prior_variance: Variance of p(z_T).
    """

    def ratio(z: Array, previous: Array, step: Transition) -> Array:
        alpha, sigma = forward_coefficients(step.to, step.frm, step.delta)
        log_q = log_normal(z, alpha * previous, jnp.broadcast_to(2 * jnp.log(sigma), z.shape))
        return log_normal(previous, *reverse(z, step)) - log_q

    zero = jnp.zeros_like(path[0])
    log_prior = log_normal(path[0], zero, zero + jnp.log(prior_variance))
    return -log_prior - jnp.sum(jax.vmap(ratio)(path[:-1], path[1:], steps), axis=0)


def path_terms(
    path: Array, reverse: Reverse, steps: Transition, prior_variance: Array | float = 1.0
) -> tuple[Array, Array, Array]:
    """Split the bound of `path_bound` into one term per step: prior, KL terms and log-ratios.

        KL(q(z_s|z_t, x) ‖ p(z_s|z_t))      and      log [q(z_s|z_t, x)/p(z_s|z_t)],

    Both are −log p(x|z_1) at the last step. Conditioned on z_t and x, the first is the mean of the second. The prior
    term and the KL terms sum to the bound that DDPM trains; log q(z_T|x)/p(z_T) and the log-ratios to `path_bound`.

    Args:
        path: The output of `forward_path`, [T + 1, B, …].
        reverse: The reverse process p(z_s|z_t).
        steps: Transitions from the last noise level to the data, [T].
        prior_variance: Variance of p(z_T).

    Returns:
        (prior term [B], KL terms [T, B], log-ratios [T, B]), nats.
    """
    x = path[-1]

    def of_step(z: Array, previous: Array, step: Transition) -> tuple[Array, Array]:
        mean, log_variance = reverse(z, step)
        true_mean, _ = posterior_of_x(z, x, step.frm, step.to, step.delta)
        true_log_variance = jnp.broadcast_to(log_variances(step)[0], z.shape)
        log_p, at_data = log_normal(previous, mean, log_variance), step.to.sigma == 0
        kl = jnp.where(at_data, -log_p, gaussian_kl(true_mean, true_log_variance, mean, log_variance))
        log_q = jnp.where(at_data, 0.0, log_normal(previous, true_mean, true_log_variance))
        return kl, log_q - log_p

    kl, ratio = jax.vmap(of_step)(path[:-1], path[1:], steps)
    last = jax.tree.map(lambda a: a[0], steps.frm)
    zero = jnp.zeros_like(x)
    prior = gaussian_kl(last.alpha * x, zero + 2 * jnp.log(last.sigma), zero, zero + jnp.log(prior_variance))
    return prior, kl, ratio
