"""Step rules of the score SDEs and of NCSN for `samplers.run` (Song & Ermon 2019; Song et al. 2021, §4).

With score = −ε̂/σ and g² dt = σ² dγ the reverse SDE of every process is

    dz = [(d log α/dγ) z + σ ε̂] dγ + σ √dγ ε,      from large γ to small,

which is the probability flow (`process.flow`) with twice the score, plus noise. `samplers.ancestral`, `ddim`, `euler`
and `heun` apply to these processes unchanged. A Langevin step stays at its noise level,

    z ← z + h score + √(2h) ε,

and the papers differ in the step size h. Here h is computed per example, so an image does not depend on the others
in its batch; the originals average the norms over the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from vdm_jax.diffusion.prediction import score_from_eps
from vdm_jax.diffusion.process import VP, Noise, Process, expand, forward_coefficients
from vdm_jax.diffusion.samplers import Predict, Step, Transition, normal
from vdm_jax.diffusion.schedules import Schedule
from vdm_jax.fields import ANY_TIME, Component, Field

COMPONENTS = (
    Component(
        {
            "sampling.corrector_steps": Field(1, "Langevin steps at each level", low=0, resume=ANY_TIME),
            "sampling.snr": Field(0.16, "signal-to-noise ratio r of the Langevin steps", low=0.0, resume=ANY_TIME),
        },
        {"sampling.sampler": ("predictor_corrector", "langevin")},
    ),
)

# (ε [B, …] of the step, score [B, …], transition) → h [B] or scalar
StepSize = Callable[[Array, Array, Transition], Array]


def euler_maruyama(predict: Predict, process: Process = VP, elapsed: Array | None = None) -> Step:
    """Euler–Maruyama step z_s = z_t − [(d log α/dγ) z_t + σ ε̂] h + σ √h ε, with coefficients at t.

    Args:
        predict: The denoiser.
        process: The forward process.
        elapsed: h of every step, [N]: γ′(t) (t − s) for steps in the time of the SDE, where h = g² dt/σ² as in the
            original. By default h = γ_t − γ_s, a step in γ, which needs a grid that is fine in γ: the noise of one
            step is √h σ.
    """

    def step(keys: Array, z: Array, transition: Transition) -> Array:
        frm, _, delta, number, _ = transition
        h = expand(delta if elapsed is None else elapsed[number], z.ndim)
        drift = expand(process.dlog_alpha(frm.gamma), z.ndim) * z
        sigma = expand(frm.sigma, z.ndim)
        return z - h * (drift + sigma * predict(z, frm).eps) + sigma * jnp.sqrt(h) * normal(keys, z)

    return step


def elapsed_gamma(schedule: Schedule, grid: Array) -> Array:
    """Return γ′(t) (t − s) for the steps of a decreasing grid: [N + 1] → [N]."""
    return schedule.dgamma(grid[:-1]) * (grid[:-1] - grid[1:])


def reverse_diffusion(predict: Predict) -> Step:
    """Reverse diffusion step of the forward kernel z_t = α_{t|s} z_s + σ_{t|s} ε (Song et al. 2021, eq. 46):

        z_s = (2 − α_{t|s}) z_t + σ²_{t|s} score + σ_{t|s} ε

    For VE this is z_t + (σ_t² − σ_s²) score + √(σ_t² − σ_s²) ε. (For sub-VP the original takes Euler–Maruyama steps
    under this name; here the kernel is that of the process.)
    """

    def step(keys: Array, z: Array, transition: Transition) -> Array:
        frm, to, delta, *_ = transition
        alpha, sigma = (expand(c, z.ndim) for c in forward_coefficients(to, frm, delta))
        score = score_from_eps(predict(z, frm).eps, frm)
        return (2 - alpha) * z + jnp.square(sigma) * score + sigma * normal(keys, z)

    return step


def by_norms(r: float) -> StepSize:
    """Make the step size h = 2 a (r ‖ε‖/‖score‖)² (Song et al. 2021, appendix G).

    a = α²_{t|s}, which is 1 − β for VP and 1 for VE.

    Args:
        r: The signal-to-noise ratio of one step: the ratio of the norms of its score term and its noise.
    """

    def size(eps: Array, score: Array, transition: Transition) -> Array:
        a = jnp.square(transition.frm.alpha / transition.to.alpha)
        norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim))))
        return 2 * a * jnp.square(r * norm(eps) / norm(score))

    return size


def by_sigma(r: float) -> StepSize:
    """Make the step size h = 2 a (r σ)² of annealed Langevin dynamics: `by_norms` with ‖ε‖/‖score‖ = σ.

    NCSN writes h = ε₀ σ_i²/σ_L² with σ_L its smallest noise level, so ε₀ = 2 r² σ_L²: its code's 2·10⁻⁵ at σ_L = .01
    is r = .316, NCSNv2's 6.2·10⁻⁶ is r = .176.
    """

    def size(eps: Array, score: Array, transition: Transition) -> Array:
        frm, to = transition.frm, transition.to
        return 2 * jnp.square(frm.alpha / to.alpha * r * frm.sigma)

    return size


def langevin(predict: Predict, size: StepSize, steps: int) -> Step:
    """Make a step of `steps` Langevin steps at noise level t; s enters only through the factor a of h."""

    def step(keys: Array, z: Array, transition: Transition) -> Array:
        frm = transition.frm

        def once(i: Array, z: Array) -> Array:
            eps = normal(jax.vmap(jax.random.fold_in, (0, None))(keys, i), z)
            score = score_from_eps(predict(z, frm).eps, frm)
            h = expand(jnp.broadcast_to(size(eps, score, transition), z.shape[:1]), z.ndim)
            return z + h * score + jnp.sqrt(2 * h) * eps

        return lax.fori_loop(0, steps, once, z)

    return step


def predictor_corrector(predictor: Step, corrector: Step) -> Step:
    """Run the corrector at t, then the predictor from t to s, in the order of the original code.

    (Algorithm 1 of the paper starts with the predictor: the same chain except at its two ends.)
    """

    def step(keys: Array, z: Array, transition: Transition) -> Array:
        for_corrector, for_predictor = (jax.vmap(jax.random.fold_in, (0, None))(keys, i) for i in range(2))
        return predictor(for_predictor, corrector(for_corrector, z, transition), transition)

    return step


def visits(steps: Transition) -> Transition:
    """Convert the N − 1 transitions between N noise levels to N transitions with s = t, one per noise level.

    Corrector-only sampling needs this grid: annealed Langevin dynamics runs at every noise level, including the last.
    """
    levels = jax.tree.map(lambda a, b: jnp.concatenate([a, b[-1:]]), steps.frm, steps.to)
    still = jnp.zeros_like(levels.gamma)
    return Transition(levels, levels, still, jnp.arange(len(still)), jnp.full_like(still, -jnp.inf))


def denoised(predict: Predict, z: Array, level: Noise) -> Array:
    """Denoise at the last noise level: x̂ = (z + σ² score)/α (Tweedie), the mean of a last step to the data.

    This matters even where σ is invisible: the remaining noise costs FID (Jolicoeur-Martineau et al. 2021).
    """
    return predict(z, level).x
