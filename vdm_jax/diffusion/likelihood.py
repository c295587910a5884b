"""The probability-flow ODE: exact likelihoods, a bound for data, and latents (Song et al. 2021, §4.3).

    dz/dγ = f(z, γ)  (process.flow),      log p(z_0) = log p(z_1) + ∫ tr ∂f/∂z dγ  from γ_0 to γ_1

The flow defines a density of z_0, not of the data. For data x with z_0 ~ q(z_0|x),

    −log p(x) ≤ E_q[log q(z_0|x) − log p_ODE(z_0) − log p(x|z_0)],

a bound of its own: no order between it and the variational bound is promised. Every example is solved
by itself with its own steps, so its value depends on no other example of its batch. Divergences are
taken in reverse mode, since the networks' convolutions have no jvp.
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
                "of the flow: exact up to 16 dimensions, else Hutchinson's",
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
    """What fixes the flow of a model and how well it is solved.

    level_of: γ → Noise, with t in the units of the network. tolerance: of one step, relative and
    absolute, for z and for the log density per dimension. An example that needs more than max_steps
    steps, or a network that is not finite, gives NaN.
    """

    predict: Predict
    level_of: Callable[[Array], Noise]
    gamma_0: Array
    gamma_1: Array
    process: Process = VP
    tolerance: float = 1e-5
    max_steps: int = 4096


def exact_divergence(f: Callable[[Array], Array], z: Array, key: Array) -> tuple[Array, Array]:
    """f(z) and tr ∂f/∂z by one vjp for every dimension of z; the key is not used."""
    value, pullback = jax.vjp(f, z)
    basis = jnp.eye(z.size, dtype=z.dtype).reshape(z.size, *z.shape)
    rows = jax.vmap(lambda e: pullback(e)[0])(basis)
    return value, jnp.vdot(basis, rows)


def hutchinson_divergence(f: Callable[[Array], Array], z: Array, key: Array) -> tuple[Array, Array]:
    """f(z) and v·(∂f/∂z)ᵀv, v ∈ {−1, 1}^D from the key: unbiased for tr ∂f/∂z, one vjp."""
    value, pullback = jax.vjp(f, z)
    probe = jax.random.rademacher(key, z.shape, z.dtype)
    return value, jnp.vdot(probe, pullback(probe)[0])


def travel(
    ode: ODE, z: Array, conditioning: Any, frm: Array, to: Array, seen: Array | None = None
) -> tuple[Array, Array, Array]:
    """Carry z [B, …] along the flow from γ = frm to γ = to; conditioning: pytree of [B, …].

    Returns (z there, z at γ = seen [K, B, …], the number of evaluations of the flow [B]). seen: [K], in order between
    the two; what the solver's steps say of these costs no evaluation.
    """

    def one(z: Array, conditioning: Any) -> tuple[Array, Array, Array]:
        return _solve(ode, lambda gamma, z: _field(ode, gamma, z, conditioning), z, frm, to, seen)

    return jax.vmap(one, out_axes=(0, 1, 0))(z, conditioning)


def transport(ode: ODE, z: Array, conditioning: Any, frm: Array, to: Array) -> Array:
    """`travel` for its end alone."""
    return travel(ode, z, conditioning, frm, to)[0]


# Dimensions up to which one vjp for each of them is cheap beside the network.
EXACT_DIVERGENCE = 16


def divergence_of(kind: str, dimensions: int) -> Divergence:
    """'exact', 'hutchinson', or 'auto': exact for few dimensions."""
    exact = kind == "exact" or (kind == "auto" and dimensions <= EXACT_DIVERGENCE)
    return exact_divergence if exact else hutchinson_divergence


def encode(ode: ODE, z_0: Array, conditioning: Any) -> Array:
    """z_0 → z_1, the latents of data; N(0, prior variance) under the model."""
    return transport(ode, z_0, conditioning, ode.gamma_0, ode.gamma_1)


def decode(ode: ODE, z_1: Array, conditioning: Any) -> Array:
    """z_1 → z_0, the inverse of `encode`."""
    return transport(ode, z_1, conditioning, ode.gamma_1, ode.gamma_0)


def log_prob(
    ode: ODE, z_0: Array, conditioning: Any, keys: Array, divergence: Divergence = exact_divergence
) -> tuple[Array, Array, Array]:
    """log p_ODE(z_0) in nats [B], z_1 [B, …] and the number of evaluations of the flow [B].

    keys: [B], for the divergence of each example.
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
    """One sample of log q(z_0|x) − log p_ODE(z_0) − log p(x|z_0) ≥ −log p(x), by its terms in nats, [B].

    x: data [B, …]; eps: standard normal, z_0 = α_0 f + σ_0 ε; keys: [B], for the divergence.
    Terms: encoder = log q(z_0|x), flow = −log p_ODE(z_0), reconstruction = −log p(x|z_0); and
    evaluations, the number of evaluations of the flow.
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
    """dz/dγ of one example."""
    level = ode.level_of(gamma)
    batch = lambda a: a[None]
    eps = ode.predict(z[None], level, jax.tree.map(batch, conditioning)).eps
    return flow(z[None], eps, level, ode.process)[0]


def _solve(
    ode: ODE, field: Callable[[Array, Any], Any], state: Any, frm: Array, to: Array, seen: Array | None = None
) -> tuple[Any, Any, Array]:
    """Integrate d state/dγ = field(γ, state): the state at `to`, those at `seen` [K], the number of evaluations."""
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
    """The largest root mean square of the leaves: the log density counts as much as all of z."""
    return jnp.max(jnp.stack([jnp.sqrt(jnp.mean(jnp.square(leaf))) for leaf in jax.tree.leaves(state)]))
