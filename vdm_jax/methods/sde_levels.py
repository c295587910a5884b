"""What the network of a score SDE is told of a level, which levels it was trained on, and what its output means.

`model.told`='time': t, or to a multiscale network what its original was told: 999 t, or log σ of data in [0, 1].
`model.told`='index', for the N = `training.num_timesteps` levels of NCSN, score_sde's discrete checkpoints and DDPM:

    VE   the number i of the nearest of σ_i = σ_max (σ_min/σ_max)^{i/(N − 1)}, i = 0 … N − 1, the largest first
    VP   the number of the level of DDPM's table, β from β_min/N to β_max/N, that has this γ, the least noise first;
         between two levels a number between theirs, as the original's 999 t

(Where the original takes such a VP network for one of an SDE, it tells it 999 t, at a noise that the table has up to 4
levels of 1,000 before: DDPM's −Σ log(1 − β) is more than the integral of β.)
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.diffusion import schedules, sde_schedules, tables, times
from vdm_jax.diffusion.process import Noise, expand
from vdm_jax.fields import value
from vdm_jax.methods.networks import Network
from vdm_jax.networks.multiscale import UNet
from vdm_jax.networks.refinenet import RefineNet


def time_of(config: ConfigDict, schedule: schedules.Schedule, gamma: Array) -> Array:
    """The t ∈ [t_min, 1] of the SDE at a level γ."""
    if isinstance(schedule.shape, sde_schedules.LinearBeta):
        return schedule.shape.time_of(gamma)
    t_min, ends = config.schedule.t_min, (schedule.gamma_0, schedule.gamma_1)
    return t_min + (1 - t_min) * (gamma - ends[0]) / (ends[1] - ends[0])


def table(config: ConfigDict) -> Array:
    """γ of DDPM's N levels, [N]."""
    section = config.schedule
    betas = tables.linear_betas(config.training.num_timesteps, section.beta_min, section.beta_max)
    return tables.from_betas(betas).gamma


def told(config: ConfigDict, net: Network, schedule: schedules.Schedule, scale: float, gamma: Array) -> Array:
    """What the network is told of a level γ. scale: σ of ours over that of the VE papers."""
    if value(config, "model.told", "time") == "index":
        last = config.training.num_timesteps - 1
        if config.schedule.kind == "ve_sde":
            return jnp.clip(jnp.round(last * (1 - time_of(config, schedule, gamma))), 0, last)
        return jnp.interp(gamma, table(config), jnp.arange(last + 1.0))
    if not isinstance(net, UNet):
        return time_of(config, schedule, gamma)
    if net.settings.embedding == "fourier":
        return 0.5 * gamma - math.log(scale)
    return 999 * time_of(config, schedule, gamma)


def trained(config: ConfigDict, schedule: schedules.Schedule, t: Array) -> tuple[Array, Array]:
    """(the schedule's time, γ) of the level that t ∈ [0, 1) falls on, uniformly if t is.

    VE: both ends are levels. VP: those of DDPM's table, the last of which lies a little beyond t = 1.
    """
    count = config.training.num_timesteps
    if config.schedule.kind == "ve_sde":
        t = (times.to_grid(t, count) * count - 1) / (count - 1)
        return t, schedule.gamma(t)
    gamma, t_min = table(config)[times.to_level(t, count)], config.schedule.t_min
    return (time_of(config, schedule, gamma) - t_min) / (1 - t_min), gamma


def gives_score(config: ConfigDict, net: Network) -> bool:
    """Whether the network was made for VE, so that it sees z as it is and `eps_of_score` says what it gives."""
    if isinstance(net, RefineNet):
        return True
    indexed = value(config, "model.told", "time") == "index" and config.schedule.kind == "ve_sde"
    return isinstance(net, UNet) and (net.settings.scale_by_sigma or indexed)


def eps_of_score(config: ConfigDict, net: Network, scale: float, raw: Array, level: Noise) -> Array:
    """The output of a network that was made for VE → ε̂ = −σ score, the score that of data in [0, 1].

    NCSN++'s output is the score, and so is NCSN's. score_sde's discrete networks give score · σ_i, i being told.
    """
    sigma = level.sigma / scale
    if isinstance(net, UNet) and not net.settings.scale_by_sigma:
        section = config.schedule
        ratio = math.log(section.sigma_min / section.sigma_max) / (config.training.num_timesteps - 1)
        sigma = sigma / (section.sigma_max * jnp.exp(ratio * level.t))
    return -raw * expand(sigma, raw.ndim)
