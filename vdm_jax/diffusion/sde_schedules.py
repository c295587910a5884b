"""The score SDEs as schedules γ(t) on t ∈ [t_min, 1] (Song et al. 2021, §3.4 and appendix B).

    VP      dx = −½ β x dt + √β dw                    α = e^{−B/2}   σ² = 1 − e^{−B}      γ = B + log(1 − e^{−B})
    sub-VP  dx = −½ β x dt + √(β (1 − e^{−2B})) dw    α = e^{−B/2}   σ = 1 − e^{−B}       γ = B + 2 log(1 − e^{−B})
    VE      dx = √(dσ²/dt) dw                         α = 1          σ = σ_min (σ_max/σ_min)^t      γ = 2 log σ

with β(t) = β_min + t (β_max − β_min) and B(t) its integral from 0. For all of them g² dt = σ² dγ and the drift is
(d log α/dγ) x dγ, so a `process.Process` and γ(t) determine the SDE. At t = 0, γ would be −∞ for VP and sub-VP.
The time s ∈ [0, 1] of a `Schedule` therefore maps to t = t_min + (1 − t_min) s, and γ(s = 0) is γ(t_min).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion.schedules import Schedule, linear
from vdm_jax.fields import Component, Field, Given, demand


def _check_betas(given: Given) -> None:
    low, high = given["schedule.beta_min"], given["schedule.beta_max"]
    demand(low <= high, f"config.schedule.beta_min={low:g} must not exceed config.schedule.beta_max={high:g}")
    demand(
        low + high <= 160,
        f"config.schedule.beta_max={high:g} leaves no signal of the data in float32; try 20",
    )


def _check_sigmas(given: Given) -> None:
    low, high = given["schedule.sigma_min"], given["schedule.sigma_max"]
    demand(low < high, f"config.schedule.sigma_min={low:g} must be below config.schedule.sigma_max={high:g}")


T_MIN = Field(1e-5, "smallest time t of an SDE, used in place of 0", low=1e-7, high=0.1, decisive=True)
COMPONENTS = (
    Component(
        {
            "schedule.beta_min": Field(0.1, "beta(0) of the VP and sub-VP SDE", low=1e-6, decisive=True),
            "schedule.beta_max": Field(20.0, "beta(1) of the VP and sub-VP SDE", low=1e-6, decisive=True),
            "schedule.t_min": T_MIN,
        },
        {"schedule.kind": ("vp_sde", "sub_vp_sde")},
        _check_betas,
    ),
    Component(
        {
            "schedule.sigma_min": Field(0.01, "sigma(0) of the VE SDE", low=1e-6, high=1e6, decisive=True),
            "schedule.sigma_max": Field(50.0, "sigma(1) of the VE SDE", low=1e-6, high=1e6, decisive=True),
            "schedule.t_min": T_MIN,
        },
        {"schedule.kind": ("ve_sde",)},
        _check_sigmas,
    ),
)


class LinearBeta(NamedTuple):
    """The shape of VP (power 1) and sub-VP (power 2): γ = B + power · log(1 − e^{−B}).

    With B = B(t), B′ = B(t − dt) and b = B − B′, γ increases by b + power · log1p(expm1(−b)/−expm1(B′)), a sum of
    positive terms. Fields are Python numbers, since nothing here is trained; span is γ(1) − γ(t_min).
    """

    beta_min: float
    beta_max: float
    t_min: float
    power: int
    span: float

    def sde_time(self, s: Array) -> Array:
        """Return t = t_min + (1 − t_min) s."""
        return self.t_min + (1 - self.t_min) * s

    def integral(self, t: Array) -> Array:
        """Return B(t) = β_min t + ½ (β_max − β_min) t²."""
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def _rise(self, s: Array, ds: Array) -> Array:
        """Return γ(s) − γ(s − ds)."""
        below, dt = self.sde_time(s - ds), (1 - self.t_min) * ds
        b = dt * (self.beta_min + (self.beta_max - self.beta_min) * (below + 0.5 * dt))
        return b + self.power * jnp.log1p(-jnp.expm1(-b) / jnp.expm1(self.integral(below)))

    def delta(self, t: Array, dt: Array) -> Array:
        return self._rise(t, dt) / self.span

    def value(self, t: Array) -> Array:
        """Compute S from the nearer end, so that both ends are exact."""
        since, until = self._rise(t, t), self._rise(jnp.ones_like(t), 1 - t)
        return jnp.where(t < 0.5, since / self.span, 1 - until / self.span)

    def slope(self, t: Array) -> Array:
        """Return dS/ds, from dγ/dB = 1 + power/expm1(B) over the span."""
        now = self.sde_time(t)
        beta = self.beta_min + (self.beta_max - self.beta_min) * now
        return (1 - self.t_min) * beta * (1 + self.power / jnp.expm1(self.integral(now))) / self.span

    def time_of(self, gamma: Array) -> Array:
        """Return the time t of the SDE at noise level γ: t = 2B/(β_min + √(β_min² + 2 (β_max − β_min) B)).

        B = softplus γ for VP and 2 arsinh(½ e^{γ/2}) for sub-VP.
        """
        b = jax.nn.softplus(gamma) if self.power == 1 else 2 * jnp.arcsinh(0.5 * jnp.exp(0.5 * gamma))
        rise = self.beta_max - self.beta_min
        return 2 * b / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * rise * b))


def _linear_beta(beta_min: float, beta_max: float, t_min: float, power: int) -> Schedule:
    def gamma(t: float) -> float:
        b = t * (beta_min + 0.5 * (beta_max - beta_min) * t)  # in float64 on the host
        return b + power * math.log(-math.expm1(-b))

    ends = gamma(t_min), gamma(1.0)
    shape = LinearBeta(beta_min, beta_max, t_min, power, ends[1] - ends[0])
    return Schedule(jnp.asarray(ends[0]), jnp.asarray(ends[1]), shape)


def vp(beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-5) -> Schedule:
    """Return the schedule of the VP SDE, the limit of DDPM's linear β."""
    return _linear_beta(beta_min, beta_max, t_min, 1)


def sub_vp(beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-5) -> Schedule:
    """Return the schedule of the sub-VP SDE, for `process.SUB_VP`."""
    return _linear_beta(beta_min, beta_max, t_min, 2)


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0, t_min: float = 0.0) -> Schedule:
    """Return the schedule of the VE SDE, γ = 2 log σ_min + 2 t log(σ_max/σ_min); t_min = 0 is allowed, as σ_min > 0."""
    slope = 2 * math.log(sigma_max / sigma_min)
    return linear(2 * math.log(sigma_min) + slope * t_min, 2 * math.log(sigma_max))
