"""Large denoising steps as conditional GANs (Xiao, Kreis & Vahdat 2022, arXiv:2112.07804).

    real   z_s ~ q(z_s|x),  z_t ~ q(z_t|z_s)
    fake   x̂ = G(z_t, w, t),  ẑ_s ~ q(z_s|z_t, x = x̂)
    D      E[softplus(−D(z_s, z_t, t)) + softplus(D(ẑ_s, z_t, t))] + ½ r E‖∇_{z_s} D(z_s, z_t, t)‖²
    G      E[softplus(−D(ẑ_s, z_t, t))]

D gives logits. A step is t → s as in `samplers`; s may be the data itself, from which nothing is drawn then.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion.process import expand, forward_coefficients, posterior_of_x, q_sample, sum_except_batch
from vdm_jax.diffusion.samplers import Step, Transition


def forward_pair(x: Array, eps: Array, more: Array, step: Transition) -> tuple[Array, Array]:
    """(z_s, z_t) of one path: z_s = α_s x + σ_s ε, z_t = α_{t|s} z_s + σ_{t|s} ε′.

    x, eps, more: [B, …]; step: fields [B].
    """
    z_s = q_sample(x, eps, step.to)
    alpha, sigma = forward_coefficients(step.to, step.frm, step.delta)
    return z_s, expand(alpha, x.ndim) * z_s + expand(sigma, x.ndim) * more


def posterior_sample(x: Array, z: Array, eps: Array, step: Transition) -> Array:
    """z_s ~ q(z_s|z_t, x) with the noise ε; x itself, without noise, where s is the data."""
    mean, deviation = posterior_of_x(z, x, step.frm, step.to, step.delta)
    return mean + expand(deviation, z.ndim) * eps


def sampler_step(draw: Callable[[Array, Array, Transition], Array]) -> Step:
    """A step of `samplers.run` from (keys [B], z_t, step with fields [B]) → z_s."""

    def step(keys: Array, z: Array, transition: Transition) -> Array:
        return draw(keys, z, jax.tree.map(lambda a: jnp.broadcast_to(a, z.shape[:1]), transition))

    return step


def discriminator_loss(real: Array, fake: Array) -> Array:
    """−log sigmoid(D(real)) − log(1 − sigmoid(D(fake))) of logits, [B]."""
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


def generator_loss(fake: Array) -> Array:
    """−log sigmoid(D(fake)) of logits, [B]: the non-saturating loss (Goodfellow et al. 2014)."""
    return jax.nn.softplus(-fake)


def with_penalty(discriminate: Callable[[Array], Array], z: Array) -> tuple[Array, Array]:
    """(D(z) [B], ½ ‖∇_z Σ D‖² [B]): R1 at a weight of 1 (Mescheder et al. 2018). z: real, [B, …]."""
    logits, pull = jax.vjp(discriminate, z)
    (slope,) = pull(jnp.ones_like(logits))
    return logits, 0.5 * sum_except_batch(jnp.square(slope))
