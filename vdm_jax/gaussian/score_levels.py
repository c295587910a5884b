"""How the network of a score SDE sees a noise level, which levels it was trained on, and what its output means.

time_input 'time': t, or for a multiscale network what its original has: 999 t, or log σ of data in [0, 1].
time_input 'index', for the N levels of NCSN, score_sde's discrete checkpoints and DDPM:

    VE   the number i of the nearest of σ_i = σ_max (σ_min/σ_max)^{i/(N − 1)}, i = 0 … N − 1, the largest first
    VP   the number of the level of DDPM's table, β from β_min/N to β_max/N, that has this γ, the least noise first;
         between two levels a number between theirs, as the original's 999 t

(Where the original takes such a VP network for one of an SDE, it uses 999 t, at a noise that the table has up to 4
levels of 1,000 before: DDPM's −Σ log(1 − β) is more than the integral of β.)
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
    """The levels of an SDE for one network.

    ve: whether the process explodes. t_min: the SDE's t at the schedule's 0. scale: σ here over that of the VE papers.
    num_levels: N, 0 for all times. ends: (β_min, β_max), or (σ_min, σ_max) of the VE papers.
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
        """The t ∈ [t_min, 1] of the SDE at a level γ."""
        if isinstance(self.schedule.shape, sde_schedules.LinearBeta):
            return self.schedule.shape.time_of(gamma)
        first, last = self.schedule.gamma_0, self.schedule.gamma_1
        return self.t_min + (1 - self.t_min) * (gamma - first) / (last - first)

    def table(self) -> Array:
        """γ of DDPM's N levels, [N]."""
        return tables.from_betas(tables.linear_betas(self.num_levels, *self.ends)).gamma

    def time_input(self, gamma: Array) -> Array:
        """What the network gets as t at a level γ."""
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
        """(the schedule's time, γ) of the level that t ∈ [0, 1) falls on, uniformly if t is.

        VE: both ends are levels. VP: those of DDPM's table, the last of which lies a little beyond t = 1.
        """
        count = self.num_levels
        if self.ve:
            t = (times.to_grid(t, count) * count - 1) / (count - 1)
            return t, self.schedule.gamma(t)
        gamma = self.table()[times.to_level(t, count)]
        return (self.time_of(gamma) - self.t_min) / (1 - self.t_min), gamma

    @property
    def gives_score(self) -> bool:
        """Whether the network was made for VE, so that it sees z as it is and `eps_of_score` converts its output."""
        if isinstance(self.net, RefineNet):
            return True
        return isinstance(self.net, UNet) and (self.net.settings.scale_by_sigma or (self.indexed and self.ve))

    def eps_of_score(self, raw: Array, level: Noise) -> Array:
        """The output of a network that was made for VE → ε̂ = −σ score, the score that of data in [0, 1].

        NCSN++'s output is the score, and so is NCSN's. score_sde's discrete networks give score · σ_i, i being their t.
        """
        sigma = level.sigma / self.scale
        if isinstance(self.net, UNet) and not self.net.settings.scale_by_sigma:
            sigma_min, sigma_max = self.ends
            ratio = math.log(sigma_min / sigma_max) / (self.num_levels - 1)
            sigma = sigma / (sigma_max * jnp.exp(ratio * level.t))
        return -raw * expand(sigma, raw.ndim)
