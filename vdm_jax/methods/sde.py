"""Score SDEs (Song et al. 2021, arXiv:2011.13456), ScoreFlow's likelihood weighting, and NCSN.

These papers use a fixed γ(t) of the VP, sub-VP or VE SDE and a score network, written as ε̂ = −σ score. The loss is
‖ε − ε̂‖², uniform in t ('simple') or weighted by ½ γ′(t) ('vlb': g² ‖score error‖², Song, Durkan, Murray & Ermon 2021).
They use uniform dequantization instead of a decoder, likelihoods of the probability flow, and predictor–corrector
sampling. NCSN is VE with `training.num_timesteps` levels and annealed Langevin dynamics.

Scale: pixel values are bins of [−1, 1] and the model is trained on dequantized data, as in ScoreFlow, so the learned
density is also the evaluated one. (Score SDE trains on the values without dequantization noise.) The VE papers scale
data to [0, 1], and `sigma_min` and `sigma_max` are in these units: on the scale of [−1, 1], σ is twice as large, and
the network's input is σ in the units of the papers. Continuous data are not rescaled.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import common_fields as common
from vdm_jax.core.method import Context, Method, Params, Phase
from vdm_jax.diffusion import baseline, losses, schedules, sde_schedules, times
from vdm_jax.diffusion.process import SUB_VP, VE, VP, Noise, Process, expand
from vdm_jax.diffusion.process import noise as noise_at
from vdm_jax.fields import ANY_TIME, Component, Field
from vdm_jax.gaussian import continuous, from_config, networks, sampling
from vdm_jax.gaussian.base import Network
from vdm_jax.gaussian.continuous import Continuous, Draw, sample_times
from vdm_jax.gaussian.data import Dequantize, Dequantized
from vdm_jax.gaussian.score_levels import ScoreLevels
from vdm_jax.keys import fold
from vdm_jax.networks.multiscale import UNet

_SHARED = {
    "model.data_variance": common.DATA_VARIANCE,
    "model.prediction": common.prediction("eps", "x", "v"),
    "schedule.kind": common.schedule("vp_sde", "sub_vp_sde", "ve_sde"),
    "training.times": common.times("stratified", "independent", "importance"),
    "sampling.sampler": common.sampler(
        "ancestral",
        "ddim",
        "euler",
        "heun",
        "adaptive",
        "euler_maruyama",
        "reverse_diffusion",
        "predictor_corrector",
        "langevin",
    ),
    "sampling.t_min": Field(
        0.0, "the t at which sampling of an SDE ends; 0 for schedule.t_min", low=0.0, high=0.1, resume=ANY_TIME
    ),
    "sampling.denoise": Field(
        True, "return the denoised mean of the last step of an SDE's sampler, without noise", resume=ANY_TIME
    ),
    "sampling.clip": common.CLIP,
    "evaluation.estimator": common.estimator("vlb", "ode"),
    "evaluation.tolerance": common.TOLERANCE,
}

COMPONENTS = (
    Component(_SHARED, {"method": ("sde", "dequantizer")}),
    Component(
        {
            "model.network": common.network("unet", "mlp", "multiscale", "refinenet"),
            "model.time_input": Field(
                "time",
                "time input of a score SDE's network: the time (or log sigma), or the index among "
                "training.num_timesteps levels, as in NCSN and score_sde's discrete checkpoints",
                ("time", "index"),
                decisive=True,
            ),
            "training.weighting": common.weighting("vlb", "simple"),
        },
        {"method": ("sde",)},
    ),
    Component({"training.num_timesteps": common.NUM_TIMESTEPS}, {"model.time_input": ("time",)}),
    Component(
        {"training.num_timesteps": common.NUM_TIMESTEPS._replace(decisive=True)}, {"model.time_input": ("index",)}
    ),
    Component(
        {
            "model.network": common.network("unet", "mlp", "multiscale"),
            "model.score_model": Field(
                "", "weights of the score SDE of a dequantizer: a working directory", resume=ANY_TIME
            ),
        },
        {"method": ("dequantizer",)},
    ),
)

# The purposes that keys are folded with; each has an independent stream of random numbers.
DEQUANTIZE, DIFFUSION, DROPOUT, TIME, START, PATH, PROBE = range(7)

PROCESSES: dict[str, Process] = {"vp_sde": VP, "sub_vp_sde": SUB_VP, "ve_sde": VE}


def build(config: ConfigDict) -> Method:
    """Build a score SDE from a checked config."""
    made = model(config)
    return method_of(config, made, Phase("sde", ("network",), made.loss))


def method_of(config: ConfigDict, made: Continuous, phase: Phase) -> Method:
    """Return the method of an SDE with one phase; the likelihood estimator is `evaluation.estimator`."""
    estimator = config.evaluation.estimator
    return continuous.method(made, phase, estimator, "ode" if estimator == "ode" else "vlb_continuous")


def model(config: ConfigDict, dequantize: Dequantize | None = None) -> Continuous:
    """Build the diffusion that `build` turns into a method. Its parameters are {'network': …}.

    Args:
        config: The checked config.
        dequantize: A learned q(u|x); None for uniform dequantization.
    """
    net = networks.build(config)
    shared, levels = from_config.common(config, net), score_levels(config, net)
    sampler, schedule, process = shared["sampler"], levels.schedule, PROCESSES[config.schedule.kind]
    t_min = config.schedule.t_min
    end = (max(sampler.t_min, t_min) - t_min) / (1 - t_min)
    final_nfe = int(sampler.denoise)
    variance = config.model.data_variance
    return Continuous(
        **shared | {"network": in_eps(shared["network"], net, levels, config)},
        process=process,
        schedule=lambda params: schedule,
        level_of=lambda gamma: noise_at(gamma, levels.time_input(gamma), process),
        data=Dequantized(
            shape=shared["shape"],
            vocabulary=shared["vocabulary"],
            noise=DEQUANTIZE,
            probe=PROBE,
            denoise=sampler.denoise,
            dequantize=dequantize,
        ),
        purposes=continuous.Purposes(DIFFUSION, DROPOUT, TIME, START, PATH),
        draw=lambda schedule, context: training_draw(config, levels, context),
        draw_evaluation=lambda schedule, keys: uniform_gamma(levels, times.independent(fold(keys, TIME))),
        objective=lambda terms, draw: terms["total" if config.training.get("weighting", "vlb") == "vlb" else "error"],
        control=lambda draw: control(draw, schedule, variance, math.prod(config.data.shape)),
        divergence=config.evaluation.get("divergence", "auto"),
        tolerance=config.evaluation.get("tolerance", 1e-5),
        steps=sampling.Steps(in_gamma=sampling.IN_GAMMA, end=end, unit_scale=True, final_nfe=final_nfe),
    )


def score_levels(config: ConfigDict, net: networks.Module) -> ScoreLevels:
    """Return the noise levels of the SDE for a network."""
    section, ve = config.schedule, config.schedule.kind == "ve_sde"
    scale = 2.0 if config.data.vocabulary else 1.0
    if ve:
        ends = (section.sigma_min, section.sigma_max)
        schedule = sde_schedules.ve(scale * ends[0], scale * ends[1], section.t_min)
    else:
        ends = (section.beta_min, section.beta_max)
        make = sde_schedules.vp if section.kind == "vp_sde" else sde_schedules.sub_vp
        schedule = make(*ends, section.t_min)
    return ScoreLevels(
        schedule=schedule,
        net=net,
        ve=ve,
        t_min=section.t_min,
        scale=scale,
        indexed=config.model.get("time_input", "time") == "index",
        num_levels=config.training.get("num_timesteps", 0),
        ends=ends,
    )


def in_eps(network: Network, net: networks.Module, levels: ScoreLevels, config: ConfigDict) -> Network:
    """Return the network with its output converted to ε̂.

    A network designed for VP sees z/√(α² + σ²), the VP latent of the same SNR, so x̂ does not depend on the process:
    under VE, where α = 1, x̂_VE(z, γ) = x̂_VP(α_VP z, γ). The v of the VP latent is v/√(α² + σ²), so the output is
    multiplied by that root. Multiscale U-Nets under sub-VP see z itself, as in the original code. With
    `model.residual`='pixel' the output is added to the exact ε̂ of Gaussian pixels (see `diffusion.baseline`).
    """
    if levels.gives_score:
        return lambda params, keys, z, level, cond: levels.eps_of_score(network(params, keys, z, level, cond), level)
    if isinstance(net, UNet) and not levels.ve:
        return network
    predicts_v = config.model.prediction == "v"
    residual, variance = config.model.get("residual", "z"), config.model.data_variance

    def on_unit_scale(params: Params, keys: Array | None, z: Array, level: Noise, cond: Any) -> Array:
        size = jnp.sqrt(jnp.square(level.alpha) + jnp.square(level.sigma))
        z = z / expand(size, z.ndim)
        level = level._replace(alpha=level.alpha / size, sigma=level.sigma / size)
        h = network(params, keys, z, level, cond)
        if predicts_v:
            return expand(size, z.ndim) * h
        if residual == "z":
            return h
        return baseline.gaussian_eps(z, level, variance) + expand(baseline.unexplained(level, variance), z.ndim) * h

    return on_unit_scale


def training_draw(config: ConfigDict, levels: ScoreLevels, context: Context) -> Draw:
    """Draw noise levels for training, with the weights ½ (dγ/dt) / p(t) of the diffusion term.

    In continuous time the weighted term is an unbiased estimate of L_∞. 'importance' draws p(t) ∝ γ′(t) = g²/σ², so γ
    is uniform (Song, Durkan, Murray & Ermon 2021, §5.1), here stratified over the global batch. With
    `training.num_timesteps`, t is rounded to one of that many levels (`score_levels`), and the mean of the weighted
    term is a sum over the levels, which only approximates L_∞.
    """
    section, schedule = config.training, levels.schedule
    if section.times == "importance":
        return uniform_gamma(levels, sample_times("stratified", context, TIME))
    t = sample_times(section.times, context, TIME)
    gamma = schedule.gamma(t)
    if section.get("num_timesteps", 0):
        t, gamma = levels.trained(t)
    return _draw(levels, gamma, losses.continuous_weight(schedule.dgamma(t)))


def uniform_gamma(levels: ScoreLevels, u: Array) -> Draw:
    """Map u [B] in [0, 1) to γ uniform between the ends of the schedule."""
    low, high = levels.schedule.gamma_0, levels.schedule.gamma_1
    return _draw(levels, low * (1 - u) + high * u, losses.continuous_weight(jnp.full_like(u, high - low)))


def _draw(levels: ScoreLevels, gamma: Array, weight: Array) -> Draw:
    # DDPM's last level has slightly more noise than the SDE has at t = 1.
    return Draw(jnp.minimum(levels.time_of(gamma), 1), gamma, weight)


def control(draw: Draw, schedule: schedules.Schedule, variance: float, dimensions: int) -> Array:
    """Compute a control variate of the diffusion term, [B] in nats.

        D (½ ∫ m dγ − ½ γ′ m(γ)),      m = sigmoid(log s² − γ) = E(ε − ε̂)², s² = `model.data_variance`

    This is the total loss of the optimal denoiser for N(0, s²) data minus its loss at t. Most of the variance of
    `diffusion` comes from the draw of t, so the control variate reduces the Monte Carlo error. It has no gradient.

    Its mean over t in continuous time is 0. If training draws t from N levels, its mean is the integral minus the sum
    over the levels, so adding it also corrects the error of that sum for the optimal denoiser.
    """
    log_variance = math.log(variance)
    ends = jax.nn.softplus(log_variance - schedule.gamma_0) - jax.nn.softplus(log_variance - schedule.gamma_1)
    return dimensions * (0.5 * ends - draw.weight * jax.nn.sigmoid(log_variance - draw.gamma))
