"""Rectified flow and flow matching (Liu, Gong & Liu 2023; Lipman et al. 2023; Esser et al. 2024).

These papers use z_t = (1 − t) x + t ε, the velocity u = ε − x as the target, the loss ‖u − û‖² with t uniform or
logit-normal, and Euler and Heun steps in (z, t). Here the path is a schedule γ(t), truncated at both ends. The bound
and the probability flow are those of any Gaussian diffusion, with the softmax decoder at t_min, so bits/dim are
comparable to those of a VDM.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import common_fields as common
from vdm_jax.core.method import Context, Method, Phase
from vdm_jax.diffusion import losses, rectified_flow, schedules, times
from vdm_jax.diffusion.process import noise as noise_at
from vdm_jax.fields import ANY_TIME, Component, Field
from vdm_jax.gaussian import continuous, from_config
from vdm_jax.gaussian.continuous import Continuous, Draw, sample_times
from vdm_jax.gaussian.data import Softmax
from vdm_jax.keys import fold

# The purposes that keys are folded with; each has an independent stream of random numbers.
RECONSTRUCTION, DIFFUSION, DROPOUT, TIME, START, DECODE, PATH, PROBE = range(8)

COMPONENTS = (
    Component(
        {
            "model.network": common.network("unet", "mlp", "multiscale"),
            "model.prediction": common.prediction("velocity", "eps", "x", "v"),
            "schedule.kind": common.schedule("rectified_flow"),
            "schedule.t_min": Field(1e-3, "the t at which data are decoded", low=1e-7, high=0.1, decisive=True),
            "schedule.t_max": Field(1 - 1e-3, "the t at which sampling starts", low=0.9, high=1 - 1e-6, decisive=True),
            "training.times": common.times("stratified", "independent", "logit_normal"),
            "sampling.sampler": common.sampler("heun", "euler", "ddim", "ancestral", "adaptive"),
            "sampling.clip": common.CLIP,
            "sampling.draw": Field(False, "draw from p(x|z) at t_min instead of taking its mode", resume=ANY_TIME),
            "evaluation.estimator": common.estimator("vlb", "ode"),
            "evaluation.tolerance": common.TOLERANCE,
        },
        {"method": ("flow_matching",)},
    ),
    Component(
        {
            "training.logit_mean": Field(0.0, "mean m of logit t ~ N(m, s^2)", low=-5.0, high=5.0),
            "training.logit_deviation": Field(1.0, "standard deviation s of logit t ~ N(m, s^2)", low=0.1, high=5.0),
        },
        {"training.times": ("logit_normal",)},
    ),
)


def build(config: ConfigDict) -> Method:
    """Build a rectified flow from a checked config."""
    made, estimator = model(config), config.evaluation.estimator
    name = "ode" if estimator == "ode" else "vlb_continuous"
    return continuous.method(made, Phase("flow_matching", ("network",), made.loss), estimator, name)


def model(config: ConfigDict) -> Continuous:
    """Build the diffusion that `build` turns into a method. Its parameters are {'network': …}.

    The network's time input is t = σ, or 1000 t for a multiscale network. Losses are reported with t itself.
    """
    common, section = from_config.common(config), config.schedule
    schedule = rectified_flow.schedule(section.t_min, section.t_max)
    units = 1000 if config.model.network == "multiscale" else 1
    level_of = lambda gamma: noise_at(gamma, units * rectified_flow.FLOW.sigma(gamma), rectified_flow.FLOW)
    return Continuous(
        **common,
        process=rectified_flow.FLOW,
        schedule=lambda params: schedule,
        level_of=level_of,
        data=Softmax(
            shape=common["shape"],
            vocabulary=common["vocabulary"],
            noise=RECONSTRUCTION,
            probe=PROBE,
            decoding=DECODE,
            draw=config.sampling.draw,
        ),
        purposes=continuous.Purposes(DIFFUSION, DROPOUT, TIME, START, PATH),
        draw=lambda schedule, context: training_draw(config, schedule, context),
        draw_evaluation=lambda schedule, keys: uniform_gamma(schedule, times.independent(fold(keys, TIME))),
        objective=velocity_error,
        divergence=config.evaluation.get("divergence", "auto"),
        tolerance=config.evaluation.get("tolerance", 1e-5),
        rules={"euler": rectified_flow.euler, "heun": rectified_flow.heun},
    )


def velocity_error(terms: Mapping[str, Array], draw: Draw) -> Array:
    """Return ‖u − û‖²/D = ‖ε − ε̂‖²/(α² D), [B]."""
    return terms["error"] / jnp.square(rectified_flow.FLOW.alpha(draw.gamma))


def training_draw(config: ConfigDict, schedule: schedules.Schedule, context: Context) -> Draw:
    """Draw t = σ by `training.times`, uniform on [t_min, t_max] or logit-normal.

    The weight ½ (dγ/dt) / p(t) makes the diffusion term of the bound unbiased for either distribution.
    """
    section = config.training
    if section.times != "logit_normal":
        t = sample_times(section.times, context, TIME)
        gamma = schedule.gamma(t)
        return Draw(rectified_flow.FLOW.sigma(gamma), gamma, losses.continuous_weight(schedule.dgamma(t)))
    law = section.logit_mean, section.logit_deviation, schedule.gamma_0, schedule.gamma_1
    gamma = rectified_flow.logit_normal(sample_times("stratified", context, TIME), *law)
    weight = 0.5 / rectified_flow.logit_normal_density(gamma, *law)
    return Draw(rectified_flow.FLOW.sigma(gamma), gamma, weight)


def uniform_gamma(schedule: schedules.Schedule, u: Array) -> Draw:
    """Map u [B] in [0, 1) to γ uniform between the ends of the schedule."""
    low, high = schedule.gamma_0, schedule.gamma_1
    gamma = low * (1 - u) + high * u
    return Draw(rectified_flow.FLOW.sigma(gamma), gamma, losses.continuous_weight(jnp.full_like(u, high - low)))
