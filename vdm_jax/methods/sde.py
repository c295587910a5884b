"""Score SDEs (Song et al. 2021, arXiv:2011.13456), ScoreFlow's likelihood weighting and NCSN from a config.

Which choices make these papers: a fixed γ(t) of the VP, sub-VP or VE SDE, a score network written as ε̂ = −σ score,
‖ε − ε̂‖² uniform in t ('simple') or weighted by ½ γ′(t) ('vlb': g² ‖score error‖², Song, Durkan, Murray & Ermon 2021),
uniform dequantisation instead of a decoder, the probability flow's likelihood, predictor–corrector sampling.
NCSN is VE with `training.num_timesteps` levels and annealed Langevin dynamics. What networks are told: `sde_levels`.

Scale: levels are bins of [−1, 1] and everything is trained on dequantised data, as in ScoreFlow, so that the density
that is measured is the one that is learned. (Score SDE trains on bare levels, half a level away at most.) The VE
papers have data in [0, 1] and `sigma_min`, `sigma_max` are in their units: on our scale σ is twice as large, and
the network is told theirs. Continuous data have no scale but their own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import common_fields as common
from vdm_jax.diffusion import (
    baseline,
    dequantisation,
    likelihood,
    losses,
    prediction,
    samplers,
    schedules,
    sde_schedules,
    sde_steps,
    times,
)
from vdm_jax.diffusion.process import SUB_VP, VE, VP, Noise, Process, expand, q_sample
from vdm_jax.diffusion.process import noise as noise_at
from vdm_jax.fields import ANY_TIME, Component, Field, value
from vdm_jax.methods import conditioning, flows, networks, sde_levels, sde_rules
from vdm_jax.methods.base import Batch, Context, Method, Params, Phase, Terms, fold, normal_like
from vdm_jax.methods.chains import Chain
from vdm_jax.methods.examples import OfConfig
from vdm_jax.methods.vdm import divergence, sample_times
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
        0.0, "the t where an SDE's samples end; 0 for schedule.t_min", low=0.0, high=0.1, resume=ANY_TIME
    ),
    "sampling.denoise": Field(
        True, "an SDE's sample ends with the mean of its last step, without noise", resume=ANY_TIME
    ),
    "sampling.clip": common.CLIP,
    "evaluation.estimator": common.estimator("vlb", "ode"),
    "evaluation.tolerance": common.TOLERANCE,
}
COMPONENTS = (
    Component(_SHARED, {"method": ("sde", "dequantiser")}),
    Component(
        {
            "model.network": common.network("unet", "mlp", "multiscale", "refinenet"),
            "model.told": Field(
                "time",
                "what the network of a score SDE is told of its level: the time (or log sigma), or its number among "
                "training.num_timesteps, as NCSN and score_sde's discrete checkpoints are",
                ("time", "index"),
                decisive=True,
            ),
            "training.weighting": common.weighting("vlb", "simple"),
        },
        {"method": ("sde",)},
    ),
    Component({"training.num_timesteps": common.NUM_TIMESTEPS}, {"model.told": ("time",)}),
    Component({"training.num_timesteps": common.NUM_TIMESTEPS._replace(decisive=True)}, {"model.told": ("index",)}),
    Component({"model.network": common.network("unet", "mlp", "multiscale")}, {"method": ("dequantiser",)}),
)

# Purposes that a key is folded for; each draws its own numbers (TIME as in methods.vdm, whose times these are).
DEQUANTISE, DIFFUSION, DROPOUT, TIME, START, PATH, PROBE = range(7)

PROCESSES: dict[str, Process] = {"vp_sde": VP, "sub_vp_sde": SUB_VP, "ve_sde": VE}


def build(config: ConfigDict) -> Method:
    """A score SDE from a checked config."""
    return method_of(SDE(config, networks.network(config)))


def method_of(model: SDE) -> Method:
    """The functions of an SDE as those of a method."""
    config = model.config
    bits_per_dim = {"vlb": model.vlb, "ode": model.flow_likelihood}[config.evaluation.estimator]
    return Method(
        init=model.init,
        phases=(Phase("sde", ("network",), model.loss),),
        sample=flows.sampler(model),
        chain=model.chain,
        denoise=model.denoise,
        schedule=lambda params: model.schedule,
        bits_per_dim=bits_per_dim,
        ode=model.ode,
        encode=lambda x: dequantisation.dequantise(x, jnp.asarray(0.5), model.vocabulary),
        decode=lambda z, level: dequantisation.quantise(z / expand(level.alpha, z.ndim), model.vocabulary),
        describe=lambda params: {"gamma_0": model.schedule.gamma_0, "gamma_1": model.schedule.gamma_1},
        classes=value(config, "model.num_classes", 0),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class SDE(OfConfig):
    """The functions of a method on one config. Parameters: {'network': …}."""

    net: networks.Network

    @property
    def process(self) -> Process:
        """VP, sub-VP or VE."""
        return PROCESSES[self.config.schedule.kind]

    @property
    def scale(self) -> float:
        """σ of ours over the σ that the VE papers give for data in [0, 1]."""
        return 2.0 if self.vocabulary else 1.0

    @property
    def schedule(self) -> schedules.Schedule:
        """γ(t); nothing in it is trained."""
        section = self.config.schedule
        if section.kind == "ve_sde":
            return sde_schedules.ve(self.scale * section.sigma_min, self.scale * section.sigma_max, section.t_min)
        make = sde_schedules.vp if section.kind == "vp_sde" else sde_schedules.sub_vp
        return make(section.beta_min, section.beta_max, section.t_min)

    def time_of(self, gamma: Array) -> Array:
        """The t ∈ [t_min, 1] of the SDE at a level γ."""
        return sde_levels.time_of(self.config, self.schedule, gamma)

    def level_of(self, gamma: Array) -> Noise:
        """The level γ; t is what the network is told."""
        told = sde_levels.told(self.config, self.net, self.schedule, self.scale, gamma)
        return noise_at(gamma, told, self.process)

    def init(self, key: Array) -> Params:
        """Parameters before training."""
        return {"network": networks.init(self.net, key, self.shape)}

    def uniform(self, keys: Array) -> Array:
        """Noise of U[0, 1) for every number, [b, …]."""
        draw = lambda k: jax.random.uniform(jax.random.fold_in(k, DEQUANTISE), self.shape)
        return jax.vmap(draw)(keys)

    def dequantised(self, params: Params, x: Array, keys: Array) -> tuple[Array, Array]:
        """Data → f [b, …] and log q(u|x) [b]: levels uniform in their bins of [−1, 1], real numbers as they are."""
        return dequantisation.dequantise(x, self.uniform(keys), self.vocabulary), jnp.zeros(len(x))

    def denoise(self, params: Params, keys: Array | None = None) -> prediction.Denoise:
        """(z, level, conditioning) → raw output; keys [B] switch dropout on."""

        def denoise(z: Array, level: Noise, cond: Array) -> Array:
            apply = partial(networks.apply, self.net, params["network"], keys)
            if sde_levels.gives_score(self.config, self.net):
                raw = apply(z, level, cond)
                return sde_levels.eps_of_score(self.config, self.net, self.scale, raw, level)
            return apply(z, level, cond) if isinstance(self.net, UNet) else self.on_unit_scale(apply, z, level, cond)

        return denoise

    def on_unit_scale(self, apply: Callable[..., Array], z: Array, level: Noise, cond: Array) -> Array:
        """A network made for VP sees z/√(α² + σ²), the VP latent of the same SNR: x̂_VE(z, γ) = x̂_VP(α z, γ).

        Under `model.residual`='pixel' its output is added to the exact ε̂ of Gaussian pixels (see `baseline`).
        """
        size = jnp.sqrt(jnp.square(level.alpha) + jnp.square(level.sigma))
        z = z / expand(size, z.ndim)
        level = level._replace(alpha=level.alpha / size, sigma=level.sigma / size)
        h = apply(z, level, cond)
        if value(self.config, "model.residual", "z") == "z":
            return h
        variance = self.config.model.data_variance
        return baseline.gaussian_eps(z, level, variance) + expand(baseline.unexplained(level, variance), z.ndim) * h

    def draw(self, context: Context) -> tuple[Array, Array]:
        """(γ, ½ dγ/dt ÷ density of t) of each example: weights of L_∞ that are right however t is drawn.

        'importance': p(t) ∝ γ′(t), which is g²/σ², so γ is uniform (Song, Durkan, Murray & Ermon 2021, §5.1), here
        stratified over the global batch. With `training.num_timesteps` t is on one of as many levels (`sde_levels`).
        """
        section, schedule = self.config.training, self.schedule
        if section.times == "importance":
            u = sample_times("stratified", context)
            gamma = schedule.gamma_0 * (1 - u) + schedule.gamma_1 * u
            return gamma, losses.continuous_weight(jnp.full_like(u, schedule.gamma_1 - schedule.gamma_0))
        t = sample_times(section.times, context)
        gamma = schedule.gamma(t)
        if section.get("num_timesteps", 0):
            t, gamma = sde_levels.trained(self.config, schedule, t)
        return gamma, losses.continuous_weight(schedule.dgamma(t))

    def terms(
        self, params: Params, batch: Batch, keys: Array, gamma: Array, weight: Array, train: bool = False
    ) -> Terms:
        """The terms of −VLB in bits/dim [B] and their total; t ∈ [t_min, 1], and ‖ε − ε̂‖²/D there.

        The VLB of continuous time holds for every process (VDM, §4; ScoreFlow's theorem 3): a Gaussian p(f|z_0) at
        t_min, whose mean over ε is known, the prior, ½ γ′ ‖ε − ε̂‖², and the width of the bins that f was drawn from.
        """
        (f, log_q), schedule = self.dequantised(params, batch["image"], keys), self.schedule
        level, eps = self.level_of(gamma), normal_like(keys, self.shape, DIFFUSION)
        z = q_sample(f, eps, level)
        cond = conditioning.dropped(self.config, batch["conditioning"], keys) if train else batch["conditioning"]
        raw = self.denoise(params, fold(keys, DROPOUT) if train else None)(z, level, cond)
        error = losses.squared_error(eps, self.split(raw, z, level).eps)
        exact = 0.5 * math.prod(self.shape) * (1 + math.log(2 * math.pi) + schedule.gamma_0)
        nats = {
            "reconstruction": jnp.full_like(error, exact),
            "prior": losses.prior(f, schedule.gamma_1, self.process),
            "diffusion": weight * error,
            "control": self.control(gamma, weight),
        }
        t = jnp.minimum(self.time_of(gamma), 1)  # DDPM's last level is a little more than all of the SDE's noise
        return {**self.in_bits(nats, log_q), "t": t, "error": losses.error_per_dim(error, z)}

    def control(self, gamma: Array, weight: Array) -> Array:
        """A term of mean 0 over draws of t, [B] nats: what N(0, s²) data would lose in all minus what they lose at t,

            D (½ ∫ m dγ − ½ γ′ m(γ)),      m = sigmoid(log s² − γ) = E(ε − ε̂)², s² = `model.data_variance`.

        Where t falls decides most of `diffusion`, and this takes it away: a smaller Monte Carlo error, no gradient.
        """
        log_variance, schedule = math.log(self.config.model.data_variance), self.schedule
        ends = jax.nn.softplus(log_variance - schedule.gamma_0) - jax.nn.softplus(log_variance - schedule.gamma_1)
        return math.prod(self.shape) * (0.5 * ends - weight * jax.nn.sigmoid(log_variance - gamma))

    def in_bits(self, nats: Terms, log_q: Array) -> Terms:
        """Terms [B] in bits/dim with that of the bins and of log q(u|x) [B], and their 'total'."""
        dimensions = math.prod(self.shape)
        bins = log_q + dequantisation.bin_nats(dimensions, self.vocabulary)
        bits = {k: losses.bits_per_dim(v, dimensions) for k, v in {**nats, "dequantisation": bins}.items()}
        return {**bits, "total": sum(bits.values(), jnp.zeros(()))}

    def loss(self, params: Params, extra: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        """What training minimises, per example: ‖ε − ε̂‖²/D ('simple') or the bound in bits/dim ('vlb')."""
        gamma, weight = self.draw(context)
        terms = self.terms(params, batch, context.keys, gamma, weight, train=True)
        total = terms.pop("total")
        objective = total if self.config.training.weighting == "vlb" else terms["error"]
        return objective, {**terms, "bits_per_dim": total}

    def vlb(self, params: Params, batch: Batch, keys: Array) -> Terms:
        """The variational bound, γ drawn uniformly and independently."""
        u, (low, high) = times.independent(fold(keys, TIME)), (self.schedule.gamma_0, self.schedule.gamma_1)
        weight = losses.continuous_weight(jnp.full_like(u, high - low))
        return self.terms(params, batch, keys, low * (1 - u) + high * u, weight)

    def ode(self, params: Params) -> likelihood.ODE:
        """The probability flow from t_min to 1."""
        denoise, ends = self.denoise(params), (self.schedule.gamma_0, self.schedule.gamma_1)
        predict = lambda z, level, cond: samplers.predictor(denoise, self.split, cond)(z, level)
        return likelihood.ODE(predict, self.level_of, *ends, self.process, self.config.evaluation.tolerance)

    def flow_likelihood(self, params: Params, batch: Batch, keys: Array) -> Terms:
        """−log₂ p/D of dequantised data, p the flow's density at t_min: a bound on that of discrete data.

        −log P(x) ≤ E_u[−log p(f)] − D log w, one u for each key (Song et al. 2021, §4.3); and the flow's evaluations.
        """
        rule = divergence(self.config.evaluation.divergence, math.prod(self.shape))
        (f, log_q), cond = self.dequantised(params, batch["image"], keys), batch["conditioning"]
        log_p, _, evaluations = likelihood.log_prob(self.ode(params), f, cond, fold(keys, PROBE), rule)
        return {**self.in_bits({"flow": -log_p}, log_q), "evaluations": evaluations}

    def chain(self, params: Params, cond: Any, num_steps: int) -> Chain:
        """The sampler of the config in equal steps of the SDE's t, or of γ; states are shown as z_s/√(α_s² + σ_s²).

        With `sampling.denoise` a sample is x̂ at t_min, one more call.
        """
        section, schedule = self.config.sampling, self.schedule
        predict = conditioning.predictor(self.config, self.denoise(params), self.split, cond)
        t_min = self.config.schedule.t_min
        end = (max(section.t_min, t_min) - t_min) / (1 - t_min)
        steps, grid = sde_rules.steps(section.sampler, schedule, self.level_of, num_steps, end)
        last = self.level_of(schedule.gamma(jnp.asarray(end)))

        def shown(path: Array, keep: Sequence[int]) -> Array:
            seen = jax.tree.map(lambda a: a[jnp.asarray(keep, int)], steps.to)
            return path / expand(jnp.sqrt(jnp.square(seen.alpha) + jnp.square(seen.sigma)), path.ndim)

        def ended(z: Array, keys: Array) -> Array:
            x = sde_steps.denoised(predict, z, last) if section.denoise else z / expand(last.alpha, z.ndim)
            return dequantisation.quantise(x, self.vocabulary)

        return Chain(
            start=lambda keys: samplers.prior_sample(fold(keys, START), self.shape, schedule.gamma_1, self.process),
            path_keys=lambda keys: fold(keys, PATH),
            step=sde_rules.step_rule(section, self.process, schedule, grid, predict),
            steps=steps,
            end=ended,
            shown=shown,
            ending=int(section.denoise),
        )
