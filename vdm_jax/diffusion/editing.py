"""Image editing with an unconditional model: wrappers of sampler steps, and other initial states.

  * `inpaint`: known pixels are replaced by a sample of q(z_s|x) after every step (Song et al. 2021, appendix I.2).
  * `resampled`: every transition is repeated, with forward noise in between (RePaint: Lugmayr et al. 2022).
  * `noised_start`: sampling starts from a noised image instead of pure noise (SDEdit: Meng et al. 2022).

Replacement preserves the known pixels but does not sample p(rest|known): the rest is denoised as part of a z whose
known pixels were not drawn jointly with it, and stays too close to an unconditional sample. Resampling closes the gap
as repeats grow and steps shrink. Where log p(known|z) is available, `guidance.classifier` with its gradient is exact.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from vdm_jax.diffusion.process import expand, forward_coefficients, q_sample
from vdm_jax.diffusion.samplers import Step, Transition, normal

# fold_in constants for editing noise, so that it is independent of the wrapped step's noise.
KNOWN, AGAIN, START = (2**31 - 1 - i for i in range(3))


def inpaint(step: Step, x: Array, known: Array) -> Step:
    """Wrap a step so that known pixels are set to α_s x + σ_s ε afterwards, and to x itself at the data.

    Args:
        step: The step to wrap.
        x: Encoded data, [B, …].
        known: Boolean mask that broadcasts to the shape of x and has the same rank.

    Raises:
        ValueError: The mask does not fit x.
    """
    shape = tuple(jnp.broadcast_shapes(known.shape, x.shape)) if known.ndim == x.ndim else None
    if shape != x.shape or known.dtype != jnp.bool_:
        raise ValueError(f"known must be a bool mask for x of shape {x.shape}, not {known.dtype} of {known.shape}")

    def inpainted(keys: Array, z: Array, transition: Transition) -> Array:
        if z.shape != x.shape:
            raise ValueError(f"x has the shape {x.shape} and z has {z.shape}")
        z = step(keys, z, transition)
        return jnp.where(known, q_sample(x, normal(_fold(keys, KNOWN), z), transition.to), z)

    return inpainted


def resampled(step: Step, repeats: int) -> Step:
    """Wrap a step: t → s, then `repeats` − 1 times s → t by the forward process and t → s; the carry is z [B, …]."""
    if repeats < 1:
        raise ValueError(f"repeats={repeats} must be at least 1")

    def repeated(keys: Array, z: Array, transition: Transition) -> Array:
        alpha, sigma = forward_coefficients(transition.to, transition.frm, transition.delta)

        def again(i: Array, z: Array) -> Array:
            own = _fold(_fold(keys, AGAIN), i)
            z = expand(alpha, z.ndim) * z + expand(sigma, z.ndim) * normal(_fold(own, AGAIN), z)
            return step(own, z, transition)

        return lax.fori_loop(1, repeats, again, step(keys, z, transition))

    return repeated


def noised_start(x: Array, keys: Array, steps: Transition, strength: float) -> tuple[Array, Transition]:
    """Start sampling from a noised image.

    Args:
        x: Encoded data, [B, …].
        keys: Random keys, [B].
        steps: All steps of the sampler, [N].
        strength: Fraction of the steps to run, in (0, 1]. Small values preserve x; 1 removes almost all of it.

    Returns:
        z ~ q(z_t|x) [B, …] and the remaining steps from that t, for `samplers.run`.

    Raises:
        ValueError: The strength is outside (0, 1] or runs no step.
    """
    total = len(steps.number)
    count = round(strength * total)
    if not (0 < strength <= 1 and count):
        raise ValueError(
            f"strength={strength} runs {count} of {total} steps; it must be in (0, 1] and run at least one"
        )
    rest = jax.tree.map(lambda a: a[total - count :], steps)
    return q_sample(x, normal(_fold(keys, START), x), jax.tree.map(lambda a: a[0], rest.frm)), rest


def _fold(keys: Array, purpose: int | Array) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)
