"""The probability-flow ODE: exact likelihoods, a bound for data, and latents (Song et al. 2021, §4.3).

    dz/dγ = f(z, γ)  (process.flow),      log p(z_0) = log p(z_1) + ∫ tr ∂f/∂z dγ  from γ_0 to γ_1

The flow defines a density of z_0, not of the data. For data x with z_0 ~ q(z_0|x),

    −log p(x) ≤ E_q[log q(z_0|x) − log p_ODE(z_0) − log p(x|z_0)],

which is a separate bound: neither it nor the variational bound is always the tighter one. Every example is solved
with its own adaptive steps, so its value does not depend on the rest of its batch. Divergences use reverse mode,
because the networks' convolutions have no jvp.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion import decoders, losses
from vdm_jax.diffusion.prediction import Prediction
from vdm_jax.diffusion.process import VP, Noise, Process, flow, q_sample, sum_except_batch
from vdm_jax.fields import ANY_TIME, Component, Field

COMPONENTS = (
    Component(
        {
            "evaluation.divergence": Field(
                "auto",
                "divergence of the flow; auto: exact up to 16 dimensions, else Hutchinson's",
                ("auto", "exact", "hutchinson"),
                resume=ANY_TIME,
            )
        },
        {"evaluation.estimator": ("ode",)},
    ),
)

# z [B, …], level (scalar fields), conditioning [B, …] → Prediction
Predict = Callable[[Array, Noise, Any], Prediction]
# f: [D…] → [D…], z [D…], key → f(z), tr ∂f/∂z
Divergence = Callable[[Callable[[Array], Array], Array, Array], tuple[Array, Array]]


class ODE(NamedTuple):
    """The probability-flow ODE of a model and the settings of its solver.

    An example that needs more than max_steps steps, or whose network output is not finite, gives NaN.

    Attributes:
        predict: The denoiser, (z [B, …], level, conditioning) → Prediction.
        level_of: γ → Noise, with t in the units of the network.
        gamma_0: γ at t = 0.
        gamma_1: γ at t = 1.
        process: The forward process.
        tolerance: Relative and absolute error of one step, for z and for the log density per dimension.
        max_steps: Maximum number of solver steps.
    """

    predict: Predict
    level_of: Callable[[Array], Noise]
    gamma_0: Array
    gamma_1: Array
    process: Process = VP
    tolerance: float = 1e-5
    max_steps: int = 4096


def exact_divergence(f: Callable[[Array], Array], z: Array, key: Array) -> tuple[Array, Array]:
    """Compute f(z) and tr ∂f/∂z with one vjp per dimension of z; the key is not used."""
    value, pullback = jax.vjp(f, z)
    basis = jnp.eye(z.size, dtype=z.dtype).reshape(z.size, *z.shape)
    rows = jax.vmap(lambda e: pullback(e)[0])(basis)
    return value, jnp.vdot(basis, rows)


def hutchinson_divergence(f: Callable[[Array], Array], z: Array, key: Array) -> tuple[Array, Array]:
    """Compute f(z) and v·(∂f/∂z)ᵀv with random v ∈ {−1, 1}^D: an unbiased estimate of tr ∂f/∂z from one vjp."""
    value, pullback = jax.vjp(f, z)
    probe = jax.random.rademacher(key, z.shape, z.dtype)
    return value, jnp.vdot(probe, pullback(probe)[0])


def travel(
    ode: ODE, z: Array, conditioning: Any, frm: Array, to: Array, seen: Array | None = None
) -> tuple[Array, Array, Array]:
    """Integrate the probability-flow ODE from γ = frm to γ = to.

    Args:
        ode: The flow and its solver settings.
        z: Latents at γ = frm, [B, …].
        conditioning: Pytree of [B, …].
        frm: Initial γ.
        to: Final γ.
        seen: Intermediate values of γ at which to return z, [K], in order between frm and to. They are interpolated
            by the solver and cost no evaluations.

    Returns:
        (z at γ = to [B, …], z at γ = seen [K, B, …], NFE [B]).
    """

    def one(z: Array, conditioning: Any) -> tuple[Array, Array, Array]:
        return _solve(ode, lambda gamma, z: _field(ode, gamma, z, conditioning), z, frm, to, seen)

    return jax.vmap(one, out_axes=(0, 1, 0))(z, conditioning)


def transport(ode: ODE, z: Array, conditioning: Any, frm: Array, to: Array) -> Array:
    """Integrate the probability-flow ODE as `travel` does and return the final z only, [B, …]."""
    return travel(ode, z, conditioning, frm, to)[0]


# Number of dimensions up to which one vjp per dimension is cheap compared with the network.
EXACT_DIVERGENCE = 16


def divergence_of(kind: str, dimensions: int) -> Divergence:
    """Select a divergence by name: 'exact', 'hutchinson', or 'auto', which is exact for few dimensions."""
    exact = kind == "exact" or (kind == "auto" and dimensions <= EXACT_DIVERGENCE)
    return exact_divergence if exact else hutchinson_divergence


def encode(ode: ODE, z_0: Array, conditioning: Any) -> Array:
    """Encode z_0 to latents z_1, which are N(0, prior variance) under the model."""
    return transport(ode, z_0, conditioning, ode.gamma_0, ode.gamma_1)


def decode(ode: ODE, z_1: Array, conditioning: Any) -> Array:
    """Decode latents z_1 to z_0, the inverse of `encode`."""
    return transport(ode, z_1, conditioning, ode.gamma_1, ode.gamma_0)


def log_prob(
    ode: ODE, z_0: Array, conditioning: Any, keys: Array, divergence: Divergence = exact_divergence
) -> tuple[Array, Array, Array]:
    """Compute the log-likelihood of z_0 under the flow.

    Args:
        ode: The flow and its solver settings.
        z_0: Latents at γ_0, [B, …].
        conditioning: Pytree of [B, …].
        keys: Random keys for the divergence of each example, [B].
        divergence: Exact or Hutchinson's.

    Returns:
        (log p_ODE(z_0) [B] nats, z_1 [B, …], NFE [B]).
    """
    dimensions = z_0[0].size

    def one(z: Array, conditioning: Any, key: Array) -> tuple[Array, Array, Array]:
        def field(gamma: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            slope, trace = divergence(lambda z: _field(ode, gamma, z, conditioning), state[0], key)
            return slope, trace / dimensions

        start = (z, jnp.zeros((), z.dtype))
        (z_1, change), _, evaluations = _solve(ode, field, start, ode.gamma_0, ode.gamma_1)
        return z_1, change * dimensions, evaluations

    z_1, change, evaluations = jax.vmap(one)(z_0, conditioning, keys)
    variance = ode.process.prior_variance(ode.gamma_1)
    prior = -0.5 * sum_except_batch(jnp.square(z_1) / variance + jnp.log(2 * math.pi * variance))
    return prior + change, z_1, evaluations


def bound(
    ode: ODE,
    x: Array,
    eps: Array,
    conditioning: Any,
    keys: Array,
    vocabulary: int | None,
    divergence: Divergence = exact_divergence,
) -> dict[str, Array]:
    """Estimate the bound log q(z_0|x) − log p_ODE(z_0) − log p(x|z_0) ≥ −log p(x) from one sample of z_0.

    Args:
        ode: The flow and its solver settings.
        x: Data, [B, …].
        eps: Standard normal noise of z_0 = α_0 f + σ_0 ε, [B, …].
        conditioning: Pytree of [B, …].
        keys: Random keys for the divergence of each example, [B].
        vocabulary: Number V of pixel values; None for continuous data.
        divergence: Exact or Hutchinson's.

    Returns:
        Terms in nats, [B] each: encoder = log q(z_0|x), flow = −log p_ODE(z_0), reconstruction = −log p(x|z_0);
        and evaluations, the NFE of each example.
    """
    f = decoders.encode(x, vocabulary)
    level = ode.level_of(ode.gamma_0)
    log_p, _, evaluations = log_prob(ode, q_sample(f, eps, level), conditioning, keys, divergence)
    return {
        "encoder": -0.5 * sum_except_batch(jnp.square(eps) + math.log(2 * math.pi) + 2 * jnp.log(level.sigma)),
        "flow": -log_p,
        "reconstruction": losses.reconstruction(x, f, eps, level, vocabulary),
        "evaluations": evaluations,
    }


def _field(ode: ODE, gamma: Array, z: Array, conditioning: Any) -> Array:
    """Evaluate dz/dγ for one example."""
    level = ode.level_of(gamma)
    batch = lambda a: a[None]
    eps = ode.predict(z[None], level, jax.tree.map(batch, conditioning)).eps
    return flow(z[None], eps, level, ode.process)[0]


def _solve(
    ode: ODE, field: Callable[[Array, Any], Any], state: Any, frm: Array, to: Array, seen: Array | None = None
) -> tuple[Any, Any, Array]:
    """Integrate d state/dγ = field(γ, state); return the state at `to`, the states at `seen` [K], and the NFE."""
    dtype = jnp.result_type(*jax.tree.leaves(state))
    if ode.tolerance < 10 * jnp.finfo(dtype).eps:
        enough = 20 * float(jnp.finfo(dtype).eps)
        raise ValueError(f"tolerance={ode.tolerance} is below what {dtype} resolves; use {enough:.0e}")
    frm, to = jnp.asarray(frm, dtype), jnp.asarray(to, dtype)

    def slope(gamma: Any, state: Any, args: Any) -> Any:
        return field(gamma, state)

    controller = diffrax.PIDController(rtol=ode.tolerance, atol=ode.tolerance, norm=_largest_rms)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Tsit5(),
        frm,
        to,
        0.01 * (to - frm),  # the first step tried
        state,
        stepsize_controller=controller,
        saveat=diffrax.SaveAt(t1=True, ts=seen),
        adjoint=diffrax.ForwardMode(),
        max_steps=ode.max_steps,
        throw=False,
    )
    reached = solution.result == diffrax.RESULTS.successful
    states = jax.tree.map(lambda a: jnp.where(reached, a, jnp.nan), solution.ys)
    last, before = (jax.tree.map(lambda a, part=part: a[part], states) for part in (-1, slice(-1)))
    # Tsit5 reuses its last stage: six evaluations per step tried and one before the first.
    return last, before, 6 * solution.stats["num_steps"] + 1


def _largest_rms(state: Any) -> Array:
    """Return the largest root mean square over the leaves, so that the log density weighs as much as all of z."""
    return jnp.max(jnp.stack([jnp.sqrt(jnp.mean(jnp.square(leaf))) for leaf in jax.tree.leaves(state)]))
