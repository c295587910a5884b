"""Variational Diffusion Models (Kingma, Salimans, Poole & Ho 2021, arXiv:2107.00630) from a config.

Which choices make this paper: a learned or fixed γ(t), ε-prediction (x and v on request), the
posterior variance, the continuous or discrete bound, a softmax decoder at γ(0), the VDM U-Net with
Fourier features. Strings of the config are resolved here; below are functions and pytrees.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import common_fields as common
from vdm_jax.diffusion import baseline, decoders, likelihood, losses, prediction, reverse, samplers, schedules, times
from vdm_jax.diffusion.process import VP, Noise, expand, q_sample
from vdm_jax.diffusion.process import noise as noise_at
from vdm_jax.fields import ANY_TIME, Component, Field, value
from vdm_jax.methods import conditioning, flows, networks
from vdm_jax.methods.base import Batch, Context, Method, Params, Phase, Terms, fold, normal_like
from vdm_jax.methods.chains import Chain
from vdm_jax.methods.examples import OfConfig

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
            "sampling.draw": Field(False, "draw from p(x|z_0), not its most likely level", resume=ANY_TIME),
            "evaluation.estimator": common.estimator("vlb", "ode"),
            "evaluation.tolerance": common.TOLERANCE,
        },
        {"method": ("vdm",)},
    ),
    Component(
        {
            "evaluation.num_timesteps": Field(
                0, "T of the evaluated bound; 0 for infinity", low=0, high=2**24, resume=ANY_TIME
            )
        },
        {"method": ("vdm",), "evaluation.estimator": ("vlb",)},
    ),
    Component({"sampling.variance_mix": common.VARIANCE_MIX}, {"method": ("vdm",), "sampling.sampler": ("ancestral",)}),
)

# Purposes that a key is folded for; each draws its own numbers.
RECONSTRUCTION, DIFFUSION, DROPOUT, TIME, START, DECODE, PATH, PROBE = range(8)


def completion(config: ConfigDict) -> Callable[[Array, Array, Noise], Array]:
    """(h, z, level) → raw output, h being the network's: h itself, which holds + z, or, if `model.residual`
    is 'pixel', ε̂ = ε̂_pixel(z, γ) + √(α²s²/(σ² + α²s²)) h (see `diffusion.baseline`)."""
    if value(config, "model.residual", "z") == "z":
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
    shape: schedules.Shape = schedules.Linear()
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
    model = VDM(config, networks.network(config), completion(config))
    bits_per_dim = {"vlb": model.vlb, "ode": model.flow_bound}[config.evaluation.estimator]
    return Method(
        init=model.init,
        phases=(Phase("vdm", ("network", "schedule"), model.loss),),
        sample=flows.sampler(model),
        chain=model.chain,
        denoise=model.denoise,
        schedule=model.schedule,
        bits_per_dim=bits_per_dim,
        ode=model.ode,
        encode=lambda x: decoders.encode(x, model.vocabulary),
        decode=lambda z, level: decoders.decode(z, level, model.vocabulary),
        describe=model.describe,
        classes=value(config, "model.num_classes", 0),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class VDM(OfConfig):
    """The functions of a method on one config. Parameters: {'network': …, 'schedule': …}."""

    net: networks.Network
    complete: Callable[[Array, Array, Noise], Array]

    def init(self, key: Array) -> Params:
        """Parameters before training."""
        net_key, schedule_key = jax.random.split(key)
        network = networks.init(self.net, net_key, self.shape)
        return {"network": network, "schedule": init_schedule(self.config, schedule_key)}

    def schedule(self, params: Params) -> schedules.Schedule:
        """γ(t) of these parameters."""
        return schedule_from(self.config, params["schedule"])

    def level_of(self, gamma: Array) -> Noise:
        """The level γ; t is γ on the scale of the endpoints that training started from (VDM, appendix B), times 1000
        for a multiscale network, which tells the levels of a table apart."""
        section = self.config.schedule
        units = 1000 if self.config.model.network == "multiscale" else 1
        return noise_at(gamma, units * (gamma - section.gamma_0) / (section.gamma_1 - section.gamma_0), VP)

    def denoise(self, params: Params, keys: Array | None = None) -> prediction.Denoise:
        """(z, level, conditioning) → raw output; keys [B] switch dropout on."""

        def denoise(z: Array, level: Noise, cond: Array) -> Array:
            return self.complete(networks.apply(self.net, params["network"], keys, z, level, cond), z, level)

        return denoise

    def path(
        self, schedule: schedules.Schedule, t: Array, num_timesteps: int, path_weight: float | None
    ) -> tuple[Array, Array, Array]:
        """(t, γ, weight of ‖ε − ε̂‖²) of the bound at T = num_timesteps, 0 for ∞.

        path_weight: the weight of one L_i in the loss, if the path minimises its variance.
        """
        if num_timesteps:
            t = times.to_grid(t, num_timesteps)
            delta = schedule.delta(t, jnp.full((), 1 / num_timesteps, t.dtype))
            return t, schedule.gamma(t), losses.discrete_weight(delta, num_timesteps)
        if path_weight is not None:
            gamma, dgamma = schedules.minimise_variance(schedule, t, path_weight)
        else:
            gamma, dgamma = schedule.gamma(t), schedule.dgamma(t)
        return t, gamma, losses.continuous_weight(dgamma)

    def terms(
        self,
        params: Params,
        batch: Batch,
        keys: Array,
        t: Array,
        num_timesteps: int,
        path_weight: float | None = None,
        train: bool = False,
    ) -> Terms:
        """The three terms of −VLB in bits/dim [B] and their total; t, and ‖ε − ε̂‖²/D there."""
        schedule, x = self.schedule(params), batch["image"]
        f = decoders.encode(x, self.vocabulary)
        level_0 = self.level_of(schedule.gamma(jnp.zeros(())))
        eps_0 = normal_like(keys, self.shape, RECONSTRUCTION)

        t, gamma, weight = self.path(schedule, t, num_timesteps, path_weight)
        level, eps = self.level_of(gamma), normal_like(keys, self.shape, DIFFUSION)
        z = q_sample(f, eps, level)
        cond = conditioning.dropped(self.config, batch["conditioning"], keys) if train else batch["conditioning"]
        raw = self.denoise(params, fold(keys, DROPOUT) if train else None)(z, level, cond)
        error = losses.squared_error(eps, self.split(raw, z, level).eps)
        nats = {
            "reconstruction": losses.reconstruction(x, f, eps_0, level_0, self.vocabulary),
            "prior": losses.prior(f, schedule.gamma(jnp.ones(()))),
            "diffusion": weight * error,
        }
        return {**self.in_bits(nats), "t": t, "error": losses.error_per_dim(error, z)}

    def in_bits(self, nats: Terms) -> Terms:
        """Terms in bits/dim, with their 'total'."""
        bits = {k: losses.bits_per_dim(v, math.prod(self.shape)) for k, v in nats.items()}
        return {**bits, "total": sum(bits.values(), jnp.zeros(()))}

    def loss(self, params: Params, extra: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        """What training minimises, bits/dim per example; aux: the terms of the bound."""
        section, dimensions = self.config.training, math.prod(self.shape)
        # the mean over the global batch of bits/dim: the weight that one L_i in nats has in it
        weight = 1 / (context.total * dimensions * math.log(2))
        t = sample_times(section.times, context)
        path_weight = weight if value(self.config, "schedule.minimise_variance", False) else None
        terms = self.terms(params, batch, context.keys, t, section.num_timesteps, path_weight, train=True)
        total = terms.pop("total")
        objective = total
        if section.weighting == "simple":
            simple = losses.simple_weight(t) * terms["error"] / math.log(2)
            objective = terms["reconstruction"] + terms["prior"] + simple
        return objective, {**terms, "bits_per_dim": total}

    def vlb(self, params: Params, batch: Batch, keys: Array) -> Terms:
        """The variational bound at independent times, at T = evaluation.num_timesteps."""
        t = times.independent(fold(keys, TIME))
        return self.terms(params, batch, keys, t, value(self.config, "evaluation.num_timesteps", 0))

    def ode(self, params: Params) -> likelihood.ODE:
        """The probability flow."""
        schedule, denoise = self.schedule(params), self.denoise(params)
        predict = lambda z, level, cond: samplers.predictor(denoise, self.split, cond)(z, level)
        ends = schedule.gamma_0, schedule.gamma_1
        return likelihood.ODE(predict, self.level_of, *ends, VP, self.config.evaluation.tolerance)

    def flow_bound(self, params: Params, batch: Batch, keys: Array) -> Terms:
        """The bound through q(z_0|x) and the flow's density of z_0; and the flow's evaluations."""
        eps = normal_like(keys, self.shape, RECONSTRUCTION)
        rule = divergence(self.config.evaluation.divergence, math.prod(self.shape))
        x, cond = batch["image"], batch["conditioning"]
        nats = likelihood.bound(self.ode(params), x, eps, cond, fold(keys, PROBE), self.vocabulary, rule)
        evaluations = nats.pop("evaluations")
        return {**self.in_bits(nats), "evaluations": evaluations}

    def chain(self, params: Params, cond: Any, num_steps: int) -> Chain:
        """The sampler of the config from γ_1 to γ_0 in equal steps of t."""
        section, schedule = self.config.sampling, self.schedule(params)
        predict = conditioning.predictor(self.config, self.denoise(params), self.split, cond)
        last = self.level_of(schedule.gamma(jnp.zeros(())))
        draw = lambda keys: fold(keys, DECODE) if section.draw else None
        return Chain(
            start=lambda keys: samplers.prior_sample(fold(keys, START), self.shape, schedule.gamma_1),
            path_keys=lambda keys: fold(keys, PATH),
            step=step_rule(self.config, predict),
            steps=samplers.transitions(schedule, samplers.uniform_grid(num_steps), self.level_of),
            end=lambda z, keys: decoders.decode(z, last, self.vocabulary, draw(keys)),
        )

    def describe(self, params: Params) -> Terms:
        """The endpoints of the schedule."""
        schedule = self.schedule(params)
        return {"gamma_0": schedule.gamma(jnp.zeros(())), "gamma_1": schedule.gamma(jnp.ones(()))}


def sample_times(kind: str, context: Context) -> Array:
    """t [b] for a training batch: 'stratified' over the global batch or 'independent'."""
    if kind == "stratified":
        u = jax.random.uniform(jax.random.fold_in(context.key, TIME))
        return times.stratified(u, context.index, context.total)
    return times.independent(fold(context.keys, TIME))


# Dimensions up to which one vjp for each of them is cheap beside the network.
EXACT_DIVERGENCE = 16


def divergence(kind: str, dimensions: int) -> likelihood.Divergence:
    """The divergence that `evaluation.divergence` names."""
    exact = kind == "exact" or (kind == "auto" and dimensions <= EXACT_DIVERGENCE)
    return likelihood.exact_divergence if exact else likelihood.hutchinson_divergence


def step_rule(config: ConfigDict, predict: samplers.Predict) -> samplers.Step:
    """The reverse step that `sampling.sampler` names."""
    mix = value(config, "sampling.variance_mix", 0.0)
    rules: dict[str, Callable[[], samplers.Step]] = {
        "ancestral": lambda: reverse.ancestral(predict, mix) if mix else samplers.ancestral(predict),
        "ddim": lambda: samplers.ddim(predict, config.sampling.eta),
        "euler": lambda: samplers.euler(predict),
        "heun": lambda: samplers.heun(predict),
        "adaptive": lambda: samplers.heun(predict),  # where single steps are wanted, as editing does
    }
    return rules[config.sampling.sampler]()
