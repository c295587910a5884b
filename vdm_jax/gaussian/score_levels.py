"""Noise levels of a score SDE: the network's time input, the levels of training, and the conversion of its output.

`model.time_input` 'time': the time input is t, or for a multiscale network 999 t or log σ of data in [0, 1], as in the
original code. `model.time_input` 'index', for the N levels of NCSN, score_sde's discrete checkpoints and DDPM:

    VE   the index i of the nearest of σ_i = σ_max (σ_min/σ_max)^{i/(N − 1)}, i = 0 … N − 1, the largest first
    VP   the index of the level with this γ in DDPM's table, β from β_min/N to β_max/N, the least noise first;
         interpolated between two levels, as the original's 999 t is

(Where the original uses such a VP network with a continuous SDE, its time input is 999 t. The table reaches the same
noise up to 4 of 1,000 levels earlier, because DDPM's −Σ log(1 − β) is greater than the integral of β.)
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion import schedules, sde_schedules, tables, times
from vdm_jax.diffusion.process import Noise, expand
from vdm_jax.gaussian.networks import Module
from vdm_jax.networks.multiscale import UNet
from vdm_jax.networks.refinenet import RefineNet


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreLevels:
    """The noise levels of an SDE for one network.

    Attributes:
        schedule: The schedule γ(t).
        net: The network.
        ve: Whether the process is variance exploding.
        t_min: The SDE's time at t = 0 of the schedule.
        scale: The ratio of σ here to σ in the units of the VE papers.
        indexed: Whether the time input is an index.
        num_levels: The number N of levels; 0 for continuous time.
        ends: (β_min, β_max), or (σ_min, σ_max) in the units of the VE papers.
    """

    schedule: schedules.Schedule
    net: Module
    ve: bool
    t_min: float
    scale: float
    indexed: bool
    num_levels: int
    ends: tuple[float, float]

    def time_of(self, gamma: Array) -> Array:
        """Return the SDE's time t ∈ [t_min, 1] at γ."""
        if isinstance(self.schedule.shape, sde_schedules.LinearBeta):
            return self.schedule.shape.time_of(gamma)
        first, last = self.schedule.gamma_0, self.schedule.gamma_1
        return self.t_min + (1 - self.t_min) * (gamma - first) / (last - first)

    def table(self) -> Array:
        """Return γ of DDPM's N levels, [N]."""
        return tables.from_betas(tables.linear_betas(self.num_levels, *self.ends)).gamma

    def time_input(self, gamma: Array) -> Array:
        """Return the network's time input at γ."""
        if self.indexed:
            last = self.num_levels - 1
            if self.ve:
                return jnp.clip(jnp.round(last * (1 - self.time_of(gamma))), 0, last)
            return jnp.interp(gamma, self.table(), jnp.arange(last + 1.0))
        if not isinstance(self.net, UNet):
            return self.time_of(gamma)
        if self.net.settings.embedding == "fourier":
            return 0.5 * gamma - math.log(self.scale)
        return 999 * self.time_of(gamma)

    def trained(self, t: Array) -> tuple[Array, Array]:
        """Round t ∈ [0, 1) to one of the N levels of training, uniformly if t is uniform.

        For VE, the first and the last level are the ends of the schedule. For VP, the levels are those of DDPM's table,
        whose last one is slightly beyond t = 1.

        Returns:
            The schedule's time and γ, each of the shape of t.
        """
        count = self.num_levels
        if self.ve:
            t = (times.to_grid(t, count) * count - 1) / (count - 1)
            return t, self.schedule.gamma(t)
        gamma = self.table()[times.to_level(t, count)]
        return (self.time_of(gamma) - self.t_min) / (1 - self.t_min), gamma

    @property
    def gives_score(self) -> bool:
        """True for a network designed for VE, whose input is z itself and whose output `eps_of_score` converts."""
        if isinstance(self.net, RefineNet):
            return True
        return isinstance(self.net, UNet) and (self.net.settings.scale_by_sigma or (self.indexed and self.ve))

    def eps_of_score(self, raw: Array, level: Noise) -> Array:
        """Convert the output of a network designed for VE to ε̂ = −σ score, with the score of data in [0, 1].

        NCSN++ and NCSN predict the score. The discrete networks of score_sde predict σ_i times the score, where i is
        their time input.
        """
        sigma = level.sigma / self.scale
        if isinstance(self.net, UNet) and not self.net.settings.scale_by_sigma:
            sigma_min, sigma_max = self.ends
            ratio = math.log(sigma_min / sigma_max) / (self.num_levels - 1)
            sigma = sigma / (sigma_max * jnp.exp(ratio * level.t))
        return -raw * expand(sigma, raw.ndim)
