"""Large denoising steps as conditional GANs (Xiao, Kreis & Vahdat 2022, arXiv:2112.07804).

    real   z_s ~ q(z_s|x),  z_t ~ q(z_t|z_s)
    fake   x̂ = G(z_t, w, t),  ẑ_s ~ q(z_s|z_t, x = x̂)
    D      E[softplus(−D(z_s, z_t, t)) + softplus(D(ẑ_s, z_t, t))] + ½ r E‖∇_{z_s} D(z_s, z_t, t)‖²
    G      E[softplus(−D(ẑ_s, z_t, t))]

D returns logits. A step goes from t to s, as in `samplers`. Where s is the data, ẑ_s = x̂ and no noise is drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion.process import expand, forward_coefficients, posterior_of_x, q_sample, sum_except_batch
from vdm_jax.diffusion.samplers import Step, Transition


def forward_pair(x: Array, eps: Array, more: Array, step: Transition) -> tuple[Array, Array]:
    """Sample (z_s, z_t) of one forward path: z_s = α_s x + σ_s ε, z_t = α_{t|s} z_s + σ_{t|s} ε′.

    Args:
        x: Data, [B, …].
        eps: Standard normal noise ε of z_s, [B, …].
        more: Standard normal noise ε′ of the step from s to t, [B, …].
        step: Transition with fields of shape [B].

    Returns:
        (z_s, z_t), each [B, …].
    """
    z_s = q_sample(x, eps, step.to)
    alpha, sigma = forward_coefficients(step.to, step.frm, step.delta)
    return z_s, expand(alpha, x.ndim) * z_s + expand(sigma, x.ndim) * more


def posterior_sample(x: Array, z: Array, eps: Array, step: Transition) -> Array:
    """Draw z_s ~ q(z_s|z_t, x) with the noise ε; where s is the data, return x without noise."""
    mean, deviation = posterior_of_x(z, x, step.frm, step.to, step.delta)
    return mean + expand(deviation, z.ndim) * eps


def sampler_step(draw: Callable[[Array, Array, Transition], Array]) -> Step:
    """Make a step of `samplers.run` from `draw`: (keys [B], z_t, transition with fields [B]) → z_s."""

    def step(keys: Array, z: Array, transition: Transition) -> Array:
        return draw(keys, z, jax.tree.map(lambda a: jnp.broadcast_to(a, z.shape[:1]), transition))

    return step


def discriminator_loss(real: Array, fake: Array) -> Array:
    """Return −log sigmoid(D(real)) − log(1 − sigmoid(D(fake))) of logits, [B] nats."""
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


def generator_loss(fake: Array) -> Array:
    """Return the non-saturating loss −log sigmoid(D(fake)) of logits, [B] nats (Goodfellow et al. 2014)."""
    return jax.nn.softplus(-fake)


def with_penalty(discriminate: Callable[[Array], Array], z: Array) -> tuple[Array, Array]:
    """Compute logits and the R1 penalty at weight 1 (Mescheder et al. 2018).

    Args:
        discriminate: z → logits [B].
        z: Real samples, [B, …].

    Returns:
        (D(z), ½ ‖∇_z Σ D‖²), each [B].
    """
    logits, pull = jax.vjp(discriminate, z)
    (slope,) = pull(jnp.ones_like(logits))
    return logits, 0.5 * sum_except_batch(jnp.square(slope))
