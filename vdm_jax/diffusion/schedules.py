"""Noise schedules γ(t) = −log SNR(t), t ∈ [0, 1], as pytrees of arrays.

Every schedule has the form

    γ(t) = γ₀ (1 − S(t)) + γ₁ S(t),        S(0) = 0 and S(1) = 1 exactly,

so its endpoints are exact for every shape S (γ₀ + (γ₁ − γ₀)·1 differs from γ₁ in float32 for most pairs).
A shape implements S(t), dS/dt, and S(t) − S(t − dt) in closed form. The last one exists because the
difference of two float32 values γ_t and γ_s has an error of 6e-5 at T = 1000 and of 6 % at T = 10⁶.

Gradients flow to every array leaf; the caller chooses which of them are trained.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from vdm_jax.fields import Component, Field, Given, demand


def _check_ends(given: Given) -> None:
    demand(
        given["schedule.gamma_0"] < given["schedule.gamma_1"],
        "config.schedule.gamma_0 must be below config.schedule.gamma_1: noise grows with t",
    )


COMPONENTS = (
    Component(
        {
            "schedule.gamma_0": Field(-13.3, "gamma(0) at the start of training", low=-30, high=10, decisive=True),
            "schedule.gamma_1": Field(5.0, "gamma(1) at the start of training", low=-10, high=30, decisive=True),
        },
        {"schedule.kind": ("linear", "cosine", "learned_scalar", "learned_monotone")},
        _check_ends,
    ),
    Component(
        {
            "schedule.features": Field(1024, "hidden units of the monotone network", low=1, decisive=True),
            "schedule.minimize_variance": Field(False, "train the path with the gradient of E[L^2] (VDM, I.2)"),
        },
        {"schedule.kind": ("learned_monotone",)},
    ),
)


class Shape(Protocol):
    """A monotone path from 0 to 1; all methods are elementwise in t."""

    def value(self, t: Array) -> Array:
        """Return S(t)."""

    def slope(self, t: Array) -> Array:
        """Return dS/dt."""

    def delta(self, t: Array, dt: Array) -> Array:
        """Return S(t) − S(t − dt) without cancellation."""


class Schedule(NamedTuple):
    """The schedule γ(t) = γ₀ (1 − S(t)) + γ₁ S(t) with scalars γ₀, γ₁; SNR decreases from e^{−γ₀} to e^{−γ₁}."""

    gamma_0: Array
    gamma_1: Array
    shape: Shape

    def gamma(self, t: Array) -> Array:
        """Return γ(t), in the shape of t."""
        s = self.shape.value(t)
        return self.gamma_0 * (1 - s) + self.gamma_1 * s

    def dgamma(self, t: Array) -> Array:
        """Return γ′(t) = (γ₁ − γ₀) S′(t)."""
        return (self.gamma_1 - self.gamma_0) * self.shape.slope(t)

    def delta(self, t: Array, dt: Array) -> Array:
        """Return γ(t) − γ(t − dt) = (γ₁ − γ₀) (S(t) − S(t − dt))."""
        return (self.gamma_1 - self.gamma_0) * self.shape.delta(t, dt)


class Linear(NamedTuple):
    """The shape S(t) = t: γ is linear in t (VDM's `fixed` and `learnable_scalar`)."""

    def value(self, t: Array) -> Array:
        return jnp.asarray(t)

    def slope(self, t: Array) -> Array:
        return jnp.ones_like(t)

    def delta(self, t: Array, dt: Array) -> Array:
        return jnp.broadcast_to(dt, jnp.shape(t))


def _share(t: Array, since_0: Array, until_1: Array) -> Array:
    """Return since_0/(since_0 + until_1) computed from the nearer end, so that 0 and 1 are exact for any rounding.

    (a/(a + 0) is not 1 under jit, where XLA may compute a twice with different roundings.)
    """
    total = since_0 + until_1
    return jnp.where(t < 0.5, since_0 / total, 1 - until_1 / total)


class Cosine(NamedTuple):
    """α = cos, truncated so that γ runs from gamma_0 to gamma_1 (Ho & Salimans 2022, §2).

    γ(t) = 2 log tan(a t + b), b = arctan e^{γ₀/2}, a = arctan e^{γ₁/2} − b. By
    log tan y − log tan x = log1p(sin(y − x) / (cos y sin x)) the increase since t = 0 has a closed form without
    cancellation.
    """

    gamma_0: Array
    gamma_1: Array

    def _angles(self) -> tuple[Array, Array, Array]:
        """Return (a, b, b′): the angle at t is a t + b and its complement is a (1 − t) + b′."""
        b = jnp.arctan(jnp.exp(self.gamma_0 / 2))
        complement = jnp.arctan(jnp.exp(-self.gamma_1 / 2))
        return jnp.pi / 2 - b - complement, b, complement

    def delta(self, t: Array, dt: Array) -> Array:
        a, b, complement = self._angles()
        cos_t = jnp.sin(a * (1 - t) + complement)
        rise = 2 * jnp.log1p(jnp.sin(a * dt) / (cos_t * jnp.sin(a * (t - dt) + b)))
        return rise / (self.gamma_1 - self.gamma_0)

    def value(self, t: Array) -> Array:
        return _share(t, self.delta(t, t), self.delta(jnp.ones_like(t), 1 - t))

    def slope(self, t: Array) -> Array:
        a, b, complement = self._angles()
        span = self.gamma_1 - self.gamma_0
        return 2 * a / (span * jnp.sin(a * t + b) * jnp.sin(a * (1 - t) + complement))


class Monotone(NamedTuple):
    """A monotone network with exact endpoints (VDM, appendix H): S(t) = (N(t) − N(0)) / (N(1) − N(0)),

        N(t) = |skip| t + (1/K) Σ_k |out_k| tanh(½ (|rate_k| (2t − 1) + bias_k)).

    skip: []; rate, bias, out: [K]. With u = |rate| (2t − 1) + bias and u′ its value at t − dt, a unit increases by

        tanh ½u − tanh ½u′ = 2 tanh(|rate| dt) (sigmoid u · sigmoid −u′ + sigmoid −u · sigmoid u′),

    a sum of positive terms, so nothing cancels even for saturated units.
    """

    skip: Array
    rate: Array
    bias: Array
    out: Array

    def _rise(self, t: Array, dt: Array) -> Array:
        """Return N(t) − N(t − dt)."""
        t, dt = jnp.broadcast_arrays(t, dt)
        rate, out = self._leaves(t.ndim)
        u, before = self._inputs(t), self._inputs(t - dt)
        both = jax.nn.sigmoid(u) * jax.nn.sigmoid(-before) + jax.nn.sigmoid(-u) * jax.nn.sigmoid(before)
        bend = 2 * jnp.tanh(rate * dt[..., None]) * both
        return jnp.abs(self.skip) * dt + jnp.mean(out * bend, axis=-1)

    def _leaves(self, ndim: int) -> tuple[Array, Array]:
        """Return |rate| and |out| with ndim leading axes of size 1."""
        axes = tuple(range(ndim))
        return jnp.expand_dims(jnp.abs(self.rate), axes), jnp.expand_dims(jnp.abs(self.out), axes)

    def _inputs(self, t: Array) -> Array:
        """Return u(t) of every unit, [..., K]."""
        rate, _ = self._leaves(t.ndim)
        return rate * (2 * t[..., None] - 1) + jnp.expand_dims(self.bias, tuple(range(t.ndim)))

    def delta(self, t: Array, dt: Array) -> Array:
        return self._rise(t, dt) / self._rise(jnp.ones_like(t), jnp.ones_like(t))

    def value(self, t: Array) -> Array:
        return _share(t, self._rise(t, t), self._rise(jnp.ones_like(t), 1 - t))

    def slope(self, t: Array) -> Array:
        t = jnp.asarray(t)
        rate, out = self._leaves(t.ndim)
        u = self._inputs(t)
        bend = jnp.mean(4 * out * rate * jax.nn.sigmoid(u) * jax.nn.sigmoid(-u), axis=-1)
        return (jnp.abs(self.skip) + bend) / self._rise(jnp.ones_like(t), jnp.ones_like(t))


def init_monotone(key: Array, features: int = 1024) -> dict[str, Array]:
    """Initialize the leaves of a `Monotone` near the identity, for `Monotone(**init_monotone(key))`.

    Units have centers (1 − bias/rate)/2 uniform in [0, 1] and widths from 1 to 1/100 (log-uniform rates): the path
    that minimizes the variance bends sharply at its ends, and Adam does not reach it from rates of order 1.

    Args:
        key: Random key.
        features: Number K of hidden units.
    """
    rate_key, center_key = jax.random.split(key)
    rate = jnp.exp(jax.random.uniform(rate_key, (features,), maxval=math.log(100)))
    center = jax.random.uniform(center_key, (features,))
    return {
        "skip": jnp.ones(()),
        "rate": rate,
        "bias": rate * (1 - 2 * center),
        "out": jnp.full((features,), 0.1),
    }


def linear(gamma_0: float | Array, gamma_1: float | Array) -> Schedule:
    """Return the schedule that is linear in t from γ₀ to γ₁."""
    return Schedule(jnp.asarray(gamma_0), jnp.asarray(gamma_1), Linear())


def cosine(gamma_0: float | Array, gamma_1: float | Array) -> Schedule:
    """Return the cosine schedule truncated to [γ₀, γ₁]."""
    gamma_0, gamma_1 = jnp.asarray(gamma_0), jnp.asarray(gamma_1)
    return Schedule(gamma_0, gamma_1, Cosine(gamma_0, gamma_1))


def learned_endpoints(gamma_0: Array, span: Array) -> tuple[Array, Array]:
    """Return (γ₀, γ₀ + |span|), which are ordered for all values of the two leaves (VDM's b + |w| t)."""
    return gamma_0, gamma_0 + jnp.abs(span)


@jax.custom_vjp
def _second_moment(gamma: Array, dgamma: Array, weight: Array) -> tuple[Array, Array]:
    return gamma, dgamma


def _second_moment_fwd(gamma: Array, dgamma: Array, weight: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    return (gamma, dgamma), (dgamma, weight)


def _second_moment_bwd(residuals: tuple[Array, Array], cotangents: tuple[Array, Array]) -> tuple[Array, Array, Array]:
    dgamma, weight = residuals
    loss = dgamma * cotangents[1] / weight  # L_i is linear in γ′_i
    return 2 * loss * cotangents[0], 2 * loss * cotangents[1], jnp.zeros_like(weight)


_second_moment.defvjp(_second_moment_fwd, _second_moment_bwd)


def minimize_variance(schedule: Schedule, t: Array, weight: float | Array) -> tuple[Array, Array]:
    """Return (γ_t, γ′_t) whose path gets the gradient ∇E[L²] and whose endpoints get ∇E[L] (VDM, appendix I.2).

    For T = ∞ the bound does not depend on the path between the endpoints; only the variance of its estimate does.
    L_i = ½ γ′_i ‖ε − ε̂‖² is linear in γ′_i, so L_i is γ′_i times the cotangent of γ′_i divided by the weight of L_i
    in the loss. Multiplying both cotangents by 2 L_i turns ∇ Σ w L_i into ∇ Σ w L_i².

    Args:
        schedule: γ(t).
        t: Times, [b].
        weight: The weight w of each L_i in the scalar that is differentiated.

    Returns:
        (γ_t, γ′_t), each [b].
    """
    stop = jax.lax.stop_gradient
    path = Schedule(stop(schedule.gamma_0), stop(schedule.gamma_1), _stop_endpoints(schedule.shape))
    ends = Schedule(schedule.gamma_0, schedule.gamma_1, stop(schedule.shape))
    weight = jnp.broadcast_to(jnp.asarray(weight, t.dtype), t.shape)
    gamma, dgamma = _second_moment(path.gamma(t), path.dgamma(t), weight)
    through_ends = lambda value: value - stop(value)
    return gamma + through_ends(ends.gamma(t)), dgamma + through_ends(ends.dgamma(t))


def _stop_endpoints(shape: Shape) -> Shape:
    """Stop gradients to endpoints that a shape depends on (`Cosine`); they are not part of its path."""
    return jax.lax.stop_gradient(shape) if isinstance(shape, Cosine) else shape


def inverse(schedule: Schedule, gamma: Array, iterations: int = 60) -> Array:
    """Solve γ(t) = gamma for t by bisection, for gamma in [γ₀, γ₁]; meant for plots and tests, not for training."""

    def body(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        below = schedule.gamma(middle) < gamma
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    bounds = (jnp.zeros_like(gamma), jnp.ones_like(gamma))
    return sum(jax.lax.fori_loop(0, iterations, body, bounds)) / 2
