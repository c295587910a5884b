"""Variational Diffusion Models (Kingma, Salimans, Poole & Ho 2021, arXiv:2107.00630).

The paper uses a learned or fixed γ(t), ε-prediction (here also x and v), the posterior variance, the continuous-time or
discrete-time bound, a softmax decoder at γ(0), and a U-Net with Fourier features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import common_fields as common
from vdm_jax.core.method import Context, Method, Params, Phase
from vdm_jax.diffusion import baseline, losses, schedules, times
from vdm_jax.diffusion.process import VP, Noise, expand
from vdm_jax.diffusion.process import noise as noise_at
from vdm_jax.fields import ANY_TIME, Component, Field
from vdm_jax.gaussian import continuous, from_config
from vdm_jax.gaussian.base import Network
from vdm_jax.gaussian.continuous import Continuous, Draw, sample_times
from vdm_jax.gaussian.data import Softmax
from vdm_jax.keys import fold

COMPONENTS = (
    Component(
        {
            "model.network": common.network("unet", "mlp", "multiscale", "refinenet"),
            "model.prediction": common.prediction("eps", "x", "v"),
            "schedule.kind": common.schedule("linear", "cosine", "learned_scalar", "learned_monotone"),
            "training.num_timesteps": common.NUM_TIMESTEPS,
            "training.times": common.times("stratified", "independent"),
            "training.weighting": common.weighting("vlb", "simple"),
            "sampling.sampler": common.sampler("ancestral", "ddim", "euler", "heun", "adaptive"),
            "sampling.clip": common.CLIP,
            "sampling.draw": Field(False, "draw from p(x|z_0) instead of taking its mode", resume=ANY_TIME),
            "evaluation.estimator": common.estimator("vlb", "ode"),
            "evaluation.tolerance": common.TOLERANCE,
        },
        {"method": ("vdm",)},
    ),
    Component(
        {
            "evaluation.num_timesteps": Field(
                0, "number of steps T of the evaluated bound; 0 for infinity", low=0, high=2**24, resume=ANY_TIME
            )
        },
        {"method": ("vdm",), "evaluation.estimator": ("vlb",)},
    ),
    Component({"sampling.variance_mix": common.VARIANCE_MIX}, {"method": ("vdm",), "sampling.sampler": ("ancestral",)}),
)

# The purposes that keys are folded with; each has an independent stream of random numbers.
RECONSTRUCTION, DIFFUSION, DROPOUT, TIME, START, DECODE, PATH, PROBE = range(8)


def build(config: ConfigDict) -> Method:
    """Build a VDM from a checked config."""
    made, section = model(config), config.evaluation
    steps = section.get("num_timesteps", 0)
    name = "ode" if section.estimator == "ode" else f"vlb_T={steps}" if steps else "vlb_continuous"
    return continuous.method(made, Phase("vdm", ("network", "schedule"), made.loss), section.estimator, name)


def model(config: ConfigDict) -> Continuous:
    """Build the diffusion that `build` turns into a method. Its parameters are {'network': …, 'schedule': …}."""
    shared = from_config.common(config)
    shape, vocabulary = shared["shape"], shared["vocabulary"]
    return Continuous(
        **shared | {"network": completed(shared["network"], config)},
        process=VP,
        schedule=lambda params: schedule_from(config, params["schedule"]),
        init_schedule=lambda key: init_schedule(config, key),
        level_of=level_of(config),
        data=Softmax(
            shape=shape,
            vocabulary=vocabulary,
            noise=RECONSTRUCTION,
            probe=PROBE,
            decoding=DECODE,
            draw=config.sampling.draw,
        ),
        purposes=continuous.Purposes(DIFFUSION, DROPOUT, TIME, START, PATH),
        draw=training_draw(config),
        draw_evaluation=lambda schedule, keys: draw_at(
            schedule, times.independent(fold(keys, TIME)), config.evaluation.get("num_timesteps", 0)
        ),
        objective=simple if config.training.weighting == "simple" else lambda terms, draw: terms["total"],
        divergence=config.evaluation.get("divergence", "auto"),
        tolerance=config.evaluation.get("tolerance", 1e-5),
    )


def simple(terms: Mapping[str, Array], draw: Draw) -> Array:
    """Return the bound with the diffusion term replaced by L_simple, [B] in bits/dim."""
    return terms["reconstruction"] + terms["prior"] + losses.simple_weight(draw.t) * terms["error"] / math.log(2)


def training_draw(config: ConfigDict) -> continuous.TrainingDraw:
    """Return the draw of noise levels for training.

    t follows `training.times`, on T = `training.num_timesteps` steps (0 for continuous time). With
    `schedule.minimize_variance`, the interior of γ(t) is trained to minimize the variance of the loss.
    """
    section, dimensions = config.training, math.prod(config.data.shape)
    minimize = config.schedule.get("minimize_variance", False)

    def draw(schedule: schedules.Schedule, context: Context) -> Draw:
        # The loss is the mean over the global batch in bits/dim; this is the weight of one L_i in nats in that mean.
        weight = 1 / (context.total * dimensions * math.log(2))
        t = sample_times(section.times, context, TIME)
        return draw_at(schedule, t, section.num_timesteps, weight if minimize else None)

    return draw


def draw_at(schedule: schedules.Schedule, t: Array, num_timesteps: int, path_weight: float | None = None) -> Draw:
    """Return the noise levels at t and their weights in the bound.

    Args:
        schedule: The schedule γ(t).
        t: Times in [0, 1), [B].
        num_timesteps: T of the bound; 0 for T = ∞.
        path_weight: The weight of one L_i in the loss, if γ(t) minimizes the variance of the loss; else None.
    """
    if num_timesteps:
        t = times.to_grid(t, num_timesteps)
        delta = schedule.delta(t, jnp.full((), 1 / num_timesteps, t.dtype))
        return Draw(t, schedule.gamma(t), losses.discrete_weight(delta, num_timesteps))
    if path_weight is not None:
        gamma, dgamma = schedules.minimize_variance(schedule, t, path_weight)
    else:
        gamma, dgamma = schedule.gamma(t), schedule.dgamma(t)
    return Draw(t, gamma, losses.continuous_weight(dgamma))


def level_of(config: ConfigDict) -> Callable[[Array], Noise]:
    """Return the function γ → Noise, with the network's time input as t.

    t is γ rescaled by the initial endpoints of the schedule to [0, 1] (VDM, appendix B). For a multiscale network it is
    1000 times larger, since its sinusoidal embedding is designed for the indices of a table.
    """
    first, last = config.schedule.gamma_0, config.schedule.gamma_1
    units = 1000 if config.model.network == "multiscale" else 1
    return lambda gamma: noise_at(gamma, units * (gamma - first) / (last - first), VP)


def completed(network: Network, config: ConfigDict) -> Network:
    """Return the network, with its output h added to the exact ε̂ of independent pixels if `model.residual` is 'pixel'.

    ε̂ = ε̂_pixel(z, γ) + √(α²s²/(σ² + α²s²)) h        (see `diffusion.baseline`)
    """
    if config.model.get("residual", "z") == "z":
        return network
    variance, vocabulary = config.model.data_variance, config.data.vocabulary or None

    def complete(params: Params, keys: Array | None, z: Array, level: Noise, cond: Any) -> Array:
        h, scale = network(params, keys, z, level, cond), expand(baseline.unexplained(level, variance), z.ndim)
        return baseline.pixel_eps(z, level, variance, vocabulary) + scale * h

    return complete


def schedule_from(config: ConfigDict, leaves: Params) -> schedules.Schedule:
    """Return the schedule of the `schedule` section with its trained leaves, which are empty for a fixed schedule."""
    section = config.schedule
    if section.kind == "linear":
        return schedules.linear(section.gamma_0, section.gamma_1)
    if section.kind == "cosine":
        return schedules.cosine(section.gamma_0, section.gamma_1)
    ends = schedules.learned_endpoints(leaves["gamma_0"], leaves["span"])
    shape: schedules.Shape = schedules.Linear()
    if section.kind == "learned_monotone":
        shape = schedules.Monotone(**leaves["shape"])
    return schedules.Schedule(*ends, shape)


def init_schedule(config: ConfigDict, key: Array) -> Params:
    """Initialize the trained leaves of the schedule; {} if it is fixed."""
    section = config.schedule
    if section.kind in ("linear", "cosine"):
        return {}
    leaves: dict[str, Any] = {
        "gamma_0": jnp.asarray(section.gamma_0, jnp.float32),
        "span": jnp.asarray(section.gamma_1 - section.gamma_0, jnp.float32),
    }
    if section.kind == "learned_monotone":
        leaves["shape"] = schedules.init_monotone(key, section.features)
    return leaves
