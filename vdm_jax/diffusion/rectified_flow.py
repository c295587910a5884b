"""Rectified flow (Liu et al. 2023; flow matching, Lipman et al. 2023) as a Gaussian diffusion.

    z_t = (1 − t) x + t ε,      u = dz/dt = ε − x,      γ(t) = 2 log(t/(1 − t))

So α = sigmoid(−γ/2), σ = sigmoid(γ/2) = t define a `process.Process`. Its schedule is truncated to [t_min, t_max],
since γ is infinite at both ends. Its latents are those of VP times s(t) = √(t² + (1 − t)²), and the error of a velocity
is that of v in VP divided by s: û − u = (v̂ − v)/s.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion.process import Process, expand
from vdm_jax.diffusion.samplers import Predict, Step, Transition
from vdm_jax.diffusion.schedules import Schedule


def _alpha(gamma: Array) -> Array:
    return jax.nn.sigmoid(-0.5 * gamma)


def _sigma(gamma: Array) -> Array:
    return jax.nn.sigmoid(0.5 * gamma)


def scale(gamma: Array) -> Array:
    """Return s = √(α² + σ²): z/s is the VP latent of the same SNR."""
    return jnp.sqrt(jnp.square(_alpha(gamma)) + jnp.square(_sigma(gamma)))


# d log α/dγ = −σ/2; the prior at γ_1 is the marginal of x ~ N(0, I): N(0, s(t_1)² I).
FLOW = Process(_alpha, _sigma, lambda g: -0.5 * _sigma(g), lambda g: jnp.square(scale(g)))


class Straight(NamedTuple):
    """The shape of γ = 2 log(t/(1 − t)) at t = t_min + (t_max − t_min) s, s ∈ [0, 1]; fields are Python floats."""

    t_min: float
    t_max: float

    @property
    def span(self) -> float:
        """Return γ_1 − γ_0."""
        return _gamma(self.t_max) - _gamma(self.t_min)

    def flow_time(self, s: Array) -> Array:
        """Return t = t_min + (t_max − t_min) s."""
        return self.t_min + (self.t_max - self.t_min) * s

    def delta(self, t: Array, dt: Array) -> Array:
        """Return 2 log1p(h/(t′ (1 − t))) over the span, for t′ = t − h; a positive term, so nothing cancels."""
        now, h = self.flow_time(t), (self.t_max - self.t_min) * dt
        return 2 * jnp.log1p(h / ((now - h) * (1 - now))) / self.span

    def value(self, t: Array) -> Array:
        """Compute S from the nearer end, so that both ends are exact."""
        since, until = self.delta(t, t), self.delta(jnp.ones_like(t), 1 - t)
        return jnp.where(t < 0.5, since, 1 - until)

    def slope(self, t: Array) -> Array:
        """Return dγ/dt = 2/(t (1 − t)) over the span."""
        now = self.flow_time(t)
        return 2 * (self.t_max - self.t_min) / (now * (1 - now) * self.span)


def _gamma(t: float) -> float:
    return 2 * math.log(t / (1 - t))


def schedule(t_min: float = 1e-3, t_max: float = 1 - 1e-3) -> Schedule:
    """Return the schedule γ(s) with ends γ(t_min) and γ(t_max)."""
    return Schedule(jnp.asarray(_gamma(t_min)), jnp.asarray(_gamma(t_max)), Straight(t_min, t_max))


def logit_normal(u: Array, mean: float, deviation: float, low: Array, high: Array) -> Array:
    """Sample γ of logit-normal t, logit t ~ N(mean, deviation²), truncated (Esser et al. 2024, §3.1).

    This is γ ~ N(2 mean, 4 deviation²) truncated to [low, high].

    Args:
        u: Uniform noise in [0, 1), any shape.
        mean: Mean of logit t.
        deviation: Standard deviation of logit t.
        low: Smallest γ.
        high: Largest γ.
    """
    below, inside = _mass(mean, deviation, low, high)
    tiny = jnp.finfo(u.dtype).eps
    standard = jax.scipy.special.ndtri(jnp.clip(below + inside * u, tiny, 1 - tiny))
    return jnp.clip(2 * (mean + deviation * standard), low, high)


def logit_normal_density(gamma: Array, mean: float, deviation: float, low: Array, high: Array) -> Array:
    """Return the density of the γ that `logit_normal` samples, within [low, high]."""
    spread = 2 * deviation
    normal = jnp.exp(-0.5 * jnp.square((gamma - 2 * mean) / spread)) / (spread * math.sqrt(2 * math.pi))
    return normal / _mass(mean, deviation, low, high)[1]


def _mass(mean: float, deviation: float, low: Array, high: Array) -> tuple[Array, Array]:
    """Return the probabilities below `low` and between `low` and `high`, before truncation."""
    below, until = (jax.scipy.special.ndtr((end / 2 - mean) / deviation) for end in (low, high))
    return below, until - below


def velocity(predict: Predict, z: Array, level: object) -> Array:
    """Return the velocity û = ε̂ − x̂."""
    prediction = predict(z, level)  # type: ignore[arg-type]
    return prediction.eps - prediction.x


def euler(predict: Predict) -> Step:
    """Euler step z_s = z_t − (t − s) û(z_t, t): equal to DDIM on the same grid, up to rounding."""

    def step(keys: Array, z: Array, transition: Transition) -> Array:
        return z - _elapsed(transition, z) * velocity(predict, z, transition.frm)

    return step


def heun(predict: Predict) -> Step:
    """Heun step (order 2) in (z, t), with two network calls."""

    def step(keys: Array, z: Array, transition: Transition) -> Array:
        h, slope = _elapsed(transition, z), velocity(predict, z, transition.frm)
        return z - 0.5 * h * (slope + velocity(predict, z - h * slope, transition.to))

    return step


def _elapsed(transition: Transition, z: Array) -> Array:
    """Return t − s = σ_t − σ_s from δ: σ_t − σ_s = α_s σ_t (1 − e^{−δ/2}) for σ = sigmoid(γ/2)."""
    frm, to = transition.frm, transition.to
    return expand(to.alpha * frm.sigma * -jnp.expm1(-0.5 * transition.delta), z.ndim)
