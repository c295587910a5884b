"""Variational Diffusion Models (Kingma, Salimans, Poole & Ho 2021, arXiv:2107.00630) from a config.

Which choices make this paper: a learned or fixed γ(t), ε-prediction (x and v on request), the
posterior variance, the continuous or discrete bound, a softmax decoder at γ(0), the VDM U-Net with
Fourier features. Strings of the config are resolved here; below are functions and pytrees.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.diffusion import baseline, decoders, likelihood, losses, prediction, samplers, schedules, times
from vdm_jax.diffusion.process import VP, Noise, expand, q_sample
from vdm_jax.diffusion.process import noise as noise_at
from vdm_jax.methods.base import Batch, Context, Method, Params, Phase, Terms, normal_like
from vdm_jax.networks.initial import original, structured
from vdm_jax.networks.mlp import MLP
from vdm_jax.networks.vdm_unet import VDMUNet

# Purposes that a key is folded for; each draws its own numbers.
RECONSTRUCTION, DIFFUSION, DROPOUT, TIME, START, DECODE, PATH, PROBE = range(8)


def network(config: ConfigDict) -> MLP | VDMUNet:
    """The score network that the `model` section describes."""
    model = config.model
    dtype = jnp.dtype(model.dtype)
    if model.network == "mlp":
        return MLP(model.width, model.depth, model.dropout, dtype)
    return VDMUNet(
        width=model.width,
        depth=model.depth,
        fourier=tuple(model.fourier),
        attention=model.attention,
        dropout_rate=model.dropout,
        groups=model.groups,
        dtype=dtype,
        remat=model.remat,
        unroll=model.unroll,
        initial=structured(model.depth, config.data.shape[-1]) if model.initial == "structured" else original(),
        residual=model.residual == "z",
        damped=model.fourier_damping,
    )


def completion(config: ConfigDict) -> Callable[[Array, Array, Noise], Array]:
    """(h, z, level) → raw output, h being the network's: h itself, which holds + z, or, if `model.residual`
    is 'pixel', ε̂ = ε̂_pixel(z, γ) + √(α²s²/(σ² + α²s²)) h (see `diffusion.baseline`)."""
    if config.model.residual == "z":
        return lambda h, z, level: h
    variance, vocabulary = config.model.data_variance, config.data.vocabulary or None

    def complete(h: Array, z: Array, level: Noise) -> Array:
        scale = expand(baseline.unexplained(level, variance), z.ndim)
        return baseline.pixel_eps(z, level, variance, vocabulary) + scale * h

    return complete


def schedule_from(config: ConfigDict, leaves: Params) -> schedules.Schedule:
    """The schedule of the `schedule` section on its trained leaves (empty for the fixed ones)."""
    section = config.schedule
    if section.kind == "linear":
        return schedules.linear(section.gamma_0, section.gamma_1)
    if section.kind == "cosine":
        return schedules.cosine(section.gamma_0, section.gamma_1)
    ends = schedules.learned_endpoints(leaves["gamma_0"], leaves["span"])
    shape = schedules.Linear()
    if section.kind == "learned_monotone":
        shape = schedules.Monotone(**leaves["shape"])
    return schedules.Schedule(*ends, shape)


def init_schedule(config: ConfigDict, key: Array) -> Params:
    """Trained leaves of the schedule: {} if it is fixed."""
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


def build(config: ConfigDict) -> Method:
    """A VDM from a checked config."""
    net = network(config)
    shape, vocabulary = tuple(config.data.shape), config.data.vocabulary or None
    dimensions = math.prod(shape)
    section = config.schedule
    split = partial(prediction.split, kind=config.model.prediction)

    def level_of(gamma: Array) -> Noise:
        t = (gamma - section.gamma_0) / (section.gamma_1 - section.gamma_0)
        return noise_at(gamma, t, VP)

    complete = completion(config)

    def denoise_with(params: Params, keys: Array | None = None) -> prediction.Denoise:
        def denoise(z: Array, level: Noise, cond: Array) -> Array:
            # the MLP has no Fourier features that σ could damp
            sigma = (level.sigma,) if isinstance(net, VDMUNet) else ()
            h = net.apply({"params": params["network"]}, z, level.t, cond, keys, *sigma)
            return complete(cast(Array, h), z, level)

        return denoise

    def init(key: Array) -> Params:
        net_key, schedule_key = jax.random.split(key)
        z = jnp.zeros((1, *shape))
        variables = net.init(net_key, z, jnp.zeros(1), jnp.zeros(1))
        return {"network": variables["params"], "schedule": init_schedule(config, schedule_key)}

    schedule_of = lambda params: schedule_from(config, params["schedule"])
    terms = partial(_bound, schedule_of, level_of, denoise_with, split, vocabulary, shape, config.model.prediction)

    def loss(params: Params, extra: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        t = sample_times(config.training.times, context)
        # bits/dim per example, averaged over the global batch: the weight of one L_i in the loss
        weight = 1 / (context.total * dimensions * math.log(2))
        values = terms(
            params,
            batch,
            context.keys,
            t,
            num_timesteps=config.training.num_timesteps,
            weighting=config.training.weighting,
            path_weight=weight if config.schedule.minimise_variance else None,
            train=True,
        )
        bits = {k: losses.bits_per_dim(v, dimensions) for k, v in values.items() if k in NATS}
        per_example = bits["reconstruction"] + bits["prior"] + bits["objective"]
        total = bits["reconstruction"] + bits["prior"] + bits["diffusion"]
        aux = {**bits, "bits_per_dim": total, "t": t, "error": values["error"]}
        return per_example, aux

    def vlb(params: Params, batch: Batch, keys: Array) -> Terms:
        t = times.independent(jax.vmap(jax.random.fold_in, (0, None))(keys, TIME))
        values = terms(params, batch, keys, t, num_timesteps=config.evaluation.num_timesteps)
        bits = {k: losses.bits_per_dim(v, dimensions) for k, v in values.items() if k in NATS}
        del bits["objective"]
        total = bits["reconstruction"] + bits["prior"] + bits["diffusion"]
        return {**bits, "total": total, "t": t, "error": values["error"]}

    def ode(params: Params) -> likelihood.ODE:
        schedule, denoise = schedule_of(params), denoise_with(params)
        predict = lambda z, level, cond: samplers.predictor(denoise, split, cond)(z, level)
        ends = schedule.gamma_0, schedule.gamma_1
        return likelihood.ODE(predict, level_of, *ends, VP, config.evaluation.tolerance)

    def ode_bound(params: Params, batch: Batch, keys: Array) -> Terms:
        eps = normal_like(keys, shape, RECONSTRUCTION)
        probes = jax.vmap(jax.random.fold_in, (0, None))(keys, PROBE)
        rule = divergence(config.evaluation.divergence, dimensions)
        x, cond = batch["image"], batch["conditioning"]
        nats = likelihood.bound(ode(params), x, eps, cond, probes, vocabulary, rule)
        evaluations = nats.pop("evaluations")
        bits = {k: losses.bits_per_dim(v, dimensions) for k, v in nats.items()}
        return {**bits, "total": sum(bits.values(), jnp.zeros(())), "evaluations": evaluations}

    bits_per_dim = {"vlb": vlb, "ode": ode_bound}[config.evaluation.estimator]

    def sample(params: Params, keys: Array, cond: Array, num_steps: int, trajectory: bool = False) -> Any:
        schedule = schedule_of(params)
        steps = samplers.transitions(schedule, samplers.uniform_grid(num_steps), level_of)
        clip = 1.0 if config.sampling.clip else None
        predict = samplers.predictor(denoise_with(params), partial(split, clip=clip), cond)
        purpose = lambda p: jax.vmap(jax.random.fold_in, (0, None))(keys, p)
        z = samplers.prior_sample(purpose(START), shape, schedule.gamma_1)
        step = step_rule(config, predict)
        z, path = samplers.run(step, z, purpose(PATH), steps, trajectory)
        last = level_of(schedule.gamma(jnp.zeros(())))
        draw = purpose(DECODE) if config.sampling.draw else None
        x = decoders.decode(z, last, vocabulary, draw)
        return (x, path) if trajectory else x

    def describe(params: Params) -> Terms:
        schedule = schedule_of(params)
        return {"gamma_0": schedule.gamma(jnp.zeros(())), "gamma_1": schedule.gamma(jnp.ones(()))}

    phase = Phase("vdm", ("network", "schedule"), loss)
    return Method(init, (phase,), sample, denoise_with, schedule_of, bits_per_dim, ode, describe=describe)


NATS = ("reconstruction", "prior", "diffusion", "objective")


def _bound(
    schedule_of: Callable[[Params], schedules.Schedule],
    level_of: Callable[[Array], Noise],
    denoise_with: Callable[..., prediction.Denoise],
    split: Callable[..., prediction.Prediction],
    vocabulary: int | None,
    shape: tuple[int, ...],
    kind: str,
    params: Params,
    batch: Batch,
    keys: Array,
    t: Array,
    *,
    num_timesteps: int = 0,
    weighting: str = "vlb",
    path_weight: float | None = None,
    train: bool = False,
) -> Terms:
    """The three terms of −VLB in nats per example, the training objective and ‖ε − ε̂‖²/D at t.

    num_timesteps: T, 0 for ∞. path_weight: weight of one L_i if the path minimises the variance.
    """
    schedule = schedule_of(params)
    x, cond = batch["image"], batch["conditioning"]
    f = decoders.encode(x, vocabulary)
    level_0 = level_of(schedule.gamma(jnp.zeros(())))
    eps_0 = normal_like(keys, shape, RECONSTRUCTION)
    reconstruction = losses.reconstruction(x, f, eps_0, level_0, vocabulary)
    prior = losses.prior(f, schedule.gamma(jnp.ones(())))

    if num_timesteps:
        t = times.to_grid(t, num_timesteps)
        gamma = schedule.gamma(t)
        delta = schedule.delta(t, jnp.full((), 1 / num_timesteps, t.dtype))
        weight = losses.discrete_weight(delta, num_timesteps)
    elif path_weight is not None:
        gamma, dgamma = schedules.minimise_variance(schedule, t, path_weight)
        weight = losses.continuous_weight(dgamma)
    else:
        gamma = schedule.gamma(t)
        weight = losses.continuous_weight(schedule.dgamma(t))

    level = level_of(gamma)
    eps = normal_like(keys, shape, DIFFUSION)
    z = q_sample(f, eps, level)
    dropout = jax.vmap(jax.random.fold_in, (0, None))(keys, DROPOUT) if train else None
    raw = denoise_with(params, dropout)(z, level, cond)
    error = losses.squared_error(eps, split(raw, z, level).eps)
    objective = weight if weighting == "vlb" else losses.simple_weight(t)
    return {
        "reconstruction": reconstruction,
        "prior": prior,
        "diffusion": weight * error,
        "objective": objective * error,
        "error": losses.error_per_dim(error, z),
    }


def sample_times(kind: str, context: Context) -> Array:
    """t [b] for a training batch: 'stratified' over the global batch or 'independent'."""
    if kind == "stratified":
        u = jax.random.uniform(jax.random.fold_in(context.key, TIME))
        return times.stratified(u, context.index, context.total)
    return times.independent(jax.vmap(jax.random.fold_in, (0, None))(context.keys, TIME))


# Dimensions up to which one vjp for each of them is cheap beside the network.
EXACT_DIVERGENCE = 16


def divergence(kind: str, dimensions: int) -> likelihood.Divergence:
    """The divergence that `evaluation.divergence` names."""
    exact = kind == "exact" or (kind == "auto" and dimensions <= EXACT_DIVERGENCE)
    return likelihood.exact_divergence if exact else likelihood.hutchinson_divergence


def step_rule(config: ConfigDict, predict: samplers.Predict) -> samplers.Step:
    """The reverse step that `sampling.sampler` names."""
    rules: dict[str, Callable[[], samplers.Step]] = {
        "ancestral": lambda: samplers.ancestral(predict),
        "ddim": lambda: samplers.ddim(predict, config.sampling.eta),
        "euler": lambda: samplers.euler(predict),
        "heun": lambda: samplers.heun(predict),
    }
    return rules[config.sampling.sampler]()
