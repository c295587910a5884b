"""DDPM (Ho, Jain & Abbeel 2020, arXiv:2006.11239) and Improved DDPM (Nichol & Dhariwal 2021, arXiv:2102.09672).

Which choices make these papers: a table of T levels (linear or cosine β; the constant σ of the lectures), ε̂ of all
the noise so far, the reverse variance β̃, β or learned between them, L_simple, L_hybrid or L_vlb with levels drawn
uniformly or by importance, a discretised Gaussian for the last step, and samplers that visit some of the levels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import common_fields as common
from vdm_jax.diffusion import decoders, guidance, losses, prediction, reverse, samplers, tables, times
from vdm_jax.diffusion.process import Noise, expand, q_sample
from vdm_jax.fields import ANY_TIME, Component, Field, value
from vdm_jax.methods import chains, conditioning, distill, networks
from vdm_jax.methods.base import Batch, Context, Method, Params, Phase, Terms, fold, normal_like
from vdm_jax.methods.chains import Chain
from vdm_jax.methods.examples import OfConfig

COMPONENTS = (
    Component(
        {
            "model.network": common.network("unet", "mlp", "multiscale", "refinenet"),
            "model.prediction": common.prediction("eps", "x", "v"),
            "model.variance": Field(
                "posterior",
                "of a reverse step: beta-tilde, beta, or learned between them",
                ("posterior", "beta", "learned"),
                decisive=True,
            ),
            "model.cdf": Field(
                "exact", "of the discretised Gaussian; 'tanh' is the originals' approximation", ("exact", "tanh")
            ),
            "schedule.kind": common.schedule("ddpm_linear", "ddpm_cosine", "constant_sigma"),
            "training.times": common.times("stratified", "independent", "importance"),
            "training.weighting": common.weighting("vlb", "simple", "hybrid"),
            "sampling.sampler": common.sampler("ancestral", "ddim"),
            "sampling.respacing": Field(
                "",
                "levels of a table to visit: '250', 'ddim50', '10,10,3,2,2'; '' for num_steps of them",
                resume=ANY_TIME,
            ),
            "sampling.clip": common.CLIP,
            "evaluation.estimator": common.estimator("vlb"),
            "evaluation.clip": Field(True, "a DDPM's bound with the predicted x clipped to [-1, 1]", resume=ANY_TIME),
            "evaluation.levels": common.LEVELS,
        },
        {"method": ("ddpm",)},
    ),
    Component(
        {"training.vlb_weight": Field(0.001, "lambda of L_simple + lambda L_vlb, for 'hybrid'", low=0.0)},
        {"training.weighting": ("hybrid",)},
    ),
    Component(
        {"sampling.variance_mix": common.VARIANCE_MIX},
        {"method": ("ddpm",), "sampling.sampler": ("ancestral",), "model.variance": ("posterior",)},
    ),
)

# Purposes that a key is folded for; each draws its own numbers.
LEVEL, NOISE, DROPOUT, START, PATH = range(5)

# Groups of levels, of nearly equal ratio, that terms by level are averaged over.
GROUPS = 100


def betas_of(config: ConfigDict) -> np.ndarray:
    """β of all levels, float64 [T]."""
    return tables.betas(**config.schedule.to_dict())


def build(config: ConfigDict) -> Method:
    """A DDPM from a checked config."""
    made = model(config)
    return Method(
        init=made.init,
        init_extra=made.init_extra,
        phases=(Phase("ddpm", ("network",), made.objective()),),
        update_extra=made.update_extra,
        sample=chains.sampler(made.chain),
        chain=made.chain,
        denoise=made.denoise,
        schedule=lambda params: tables.Steps(made.table),
        encode=made.encode,
        decode=lambda z, level: made.decode(z / expand(level.alpha, z.ndim)),
        bits_per_dim=made.bits_per_dim if config.training.distill == "none" else None,
        pictures=made.uncertainty if config.model.variance == "learned" else None,
        classes=value(config, "model.num_classes", 0),
    )


def model(config: ConfigDict) -> DDPM:
    """The functions of `build`, and those behind them."""
    betas = betas_of(config)
    told = networks.told(config, len(betas))
    return DDPM(config, networks.network(config), betas, told, tables.from_betas(betas, told))


@dataclasses.dataclass(frozen=True, eq=False)
class DDPM(OfConfig):
    """The functions of a method on one config. Parameters: {'network': …}.

    told: what the network is told of every level, [T].
    """

    net: networks.Network
    betas: np.ndarray
    told: np.ndarray
    table: tables.Table

    def init(self, key: Array) -> Params:
        """Parameters before training."""
        return {"network": networks.init(self.net, key, self.shape)}

    def init_extra(self, params: Params) -> Any:
        """The last losses of every level, if the levels are drawn by them; a student's teacher."""
        if self.config.training.distill != "none":
            return jax.tree.map(jnp.copy, params)
        return times.no_history(self.table.num_levels) if self.config.training.times == "importance" else ()

    def update_extra(self, extra: Any, aux: Terms) -> Any:
        """The history with the losses of this step, aux in the order of the global batch."""
        section = self.config.training
        if section.times != "importance" or section.distill != "none":
            return extra
        index = jnp.round(aux["t"] * self.table.num_levels).astype(jnp.int32) - 1
        return times.remember(extra, index, aux["diffusion"])

    def encode(self, x: Array) -> Array:
        """Data → what is diffused: levels in [−1, 1] with both ends, real numbers as they are."""
        return decoders.encode_to_ends(x, self.vocabulary)

    def decode(self, z: Array) -> Array:
        """The nearest level; real numbers as they are."""
        return decoders.decode_from_ends(z, self.vocabulary)

    def denoise(self, params: Params, keys: Array | None = None) -> prediction.Denoise:
        """(z, level, conditioning) → raw output; keys [B] switch dropout on."""
        return partial(networks.apply, self.net, params["network"], keys)

    def evaluated(self, raw: Array, z: Array, level: Noise) -> prediction.Prediction:
        """`split` with x̂ of levels in [−1, 1] where `evaluation.clip` says so, as a sampler's."""
        found = self.split(raw, z, level)
        return prediction.clipped(found, z, level) if self.config.evaluation.clip and self.vocabulary else found

    def term(self, x: Array, z: Array, eps: Array, found: prediction.Prediction, step: samplers.Transition) -> Array:
        """The bound's term of each example's step, [B] bits/dim."""
        section = self.config.model
        decoder = reverse.discretised(x, self.vocabulary, section.cdf) if self.vocabulary else reverse.density(x)
        nats = reverse.bound_term(decoder, z, eps, found, step, section.variance)
        return losses.bits_per_dim(nats, math.prod(self.shape))

    def draw(self, extra: Any, context: Context) -> tuple[Array, Array]:
        """(index of a level, weight 1/(T p)) of each example."""
        count, kind = self.table.num_levels, self.config.training.times
        if kind == "importance":
            p = times.importance(extra)
            index = times.draw_levels(fold(context.keys, LEVEL), p)
            return index, 1 / (count * p[index])
        if kind == "stratified":
            u = jax.random.uniform(jax.random.fold_in(context.key, LEVEL))
            t = times.stratified(u, context.index, context.total)
        else:
            t = times.independent(fold(context.keys, LEVEL))
        return times.to_level(t, count), jnp.ones_like(t)

    def objective(self) -> Callable[[Params, Any, Batch, Context], tuple[Array, Terms]]:
        """What training minimises: `loss`, or that of a student."""
        section = self.config.training
        if section.distill == "none":
            return self.loss

        def predictor(params: Params, cond: Any, keys: Array | None) -> samplers.Predict:
            return samplers.predictor(self.denoise(params, keys), self.split, cond)

        told = lambda batch, keys: self.told_of(self.dropped(batch, keys))
        if section.distill == "progressive":
            table = self.spaced(f"even{2 * section.student_steps}")
            return distill.progressive_loss(predictor, table, self.encode, told)
        return distill.one_step_loss(predictor, self.spaced(f"even{section.teacher_steps}"), self.shape, told)

    def dropped(self, batch: Batch, keys: Array) -> Batch:
        """A batch, some of whose labels are the null class, if the config says so."""
        return batch | {"conditioning": conditioning.dropped(self.config, batch["conditioning"], keys)}

    def told_of(self, batch: Batch) -> Any:
        """What the network is told of a batch."""
        return conditioning.of_batch(self.config, batch, self.encode)

    def spaced(self, spacing: str) -> tables.Table:
        """The chain that visits some of the levels."""
        indices = tables.spaced(self.table.num_levels, spacing)
        return tables.from_betas(tables.merge(self.betas, indices), self.told[indices])

    def loss(self, params: Params, extra: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        """L_simple, L_hybrid or L_vlb per example (Improved DDPM, §3).

        L_simple = ‖ε − ε̂‖²/D; L_vlb = T times the bound's term in bits/dim; L_hybrid = L_simple + λ L_vlb, in which
        L_vlb trains the variance alone. aux: t = ℓ/T, error = ‖ε − ε̂‖²/D, diffusion = L_vlb, and
        bits_per_dim, an estimate of the whole bound.
        """
        section = self.config.training
        index, weight = self.draw(extra, context)
        hybrid = section.weighting == "hybrid"
        batch = self.dropped(batch, context.keys)
        error, vlb = self.at_levels(params, batch, context.keys, index, fold(context.keys, DROPOUT), hybrid)
        objective = {
            "simple": lambda: error,
            "hybrid": lambda: error + section.vlb_weight * vlb,
            "vlb": lambda: vlb,
        }[section.weighting]()
        t = (index + 1).astype(error.dtype) / self.table.num_levels
        aux = {"t": t, "error": error, "diffusion": vlb, "bits_per_dim": weight * vlb + self.prior(batch["image"])}
        return weight * objective, aux

    def at_levels(
        self,
        params: Params,
        batch: Batch,
        keys: Array,
        index: Array,
        dropout: Array | None = None,
        frozen_mean: bool = False,
    ) -> tuple[Array, Array]:
        """(‖ε − ε̂‖²/D, L_vlb in bits/dim) of one level of each example, [B]; index: int [B].

        dropout: keys, to switch it on. frozen_mean: L_vlb has no gradient in ε̂.
        """
        x, step = batch["image"], self.table.at(index)
        eps = normal_like(keys, self.shape, NOISE)
        z = q_sample(self.encode(x), eps, step.frm)
        found = self.split(self.denoise(params, dropout)(z, step.frm, self.told_of(batch)), z, step.frm)
        error = losses.error_per_dim(losses.squared_error(eps, found.eps), z)
        if frozen_mean:
            stop = jax.lax.stop_gradient
            found = found._replace(x=stop(found.x), eps=stop(found.eps))
        return error, self.table.num_levels * self.term(x, z, eps, found, step)

    def prior(self, x: Array) -> Array:
        """KL(q(z_T|x) ‖ N(0, I)), [B] bits/dim."""
        return losses.bits_per_dim(losses.prior(self.encode(x), self.table.gamma[-1]), math.prod(self.shape))

    def levels(self, keys: Array) -> tuple[Array, np.ndarray]:
        """(indices [K, B], weight [K] in the sum over levels).

        All T, or level 1 and one level from each of K − 1 equal strata of the rest.
        """
        total, count = self.table.num_levels, self.config.evaluation.levels or self.table.num_levels
        if count >= total:
            every = jnp.arange(total)[:, None]
            return jnp.broadcast_to(every, (total, len(keys))), np.ones(total)
        strata = count - 1
        u = jax.vmap(lambda k: jax.random.uniform(k, (strata,)))(fold(keys, LEVEL)).T
        place = (jnp.arange(strata)[:, None] + u) * ((total - 1) / strata)
        rest = 1 + jnp.minimum(jnp.floor(place), total - 2).astype(jnp.int32)
        return jnp.concatenate([jnp.zeros((1, len(keys)), jnp.int32), rest]), np.array(
            [1.0] + [(total - 1) / strata] * strata
        )

    def bits_per_dim(self, params: Params, batch: Batch, keys: Array) -> Terms:
        """The bound on −log₂ p(x)/D by its terms, [B]; by level, in groups [B, G]: t, at_t = T times the term, error.

        One noise per level; x̂ as `evaluated`.
        """
        x, cond = batch["image"], self.told_of(batch)
        f, denoise = self.encode(x), self.denoise(params)
        indices, weights = self.levels(keys)

        def body(_: None, now: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
            number, index = now
            step = self.table.at(index)
            eps = normal_like(fold(fold(keys, NOISE), number), self.shape, NOISE)
            z = q_sample(f, eps, step.frm)
            found = self.evaluated(denoise(z, step.frm, cond), z, step.frm)
            error = losses.error_per_dim(losses.squared_error(eps, found.eps), z)
            return None, (self.term(x, z, eps, found, step), error)

        _, (term, error) = jax.lax.scan(body, None, (jnp.arange(len(weights)), indices))
        diffusion = jnp.asarray(weights[1:], term.dtype) @ term[1:]
        terms = {"reconstruction": term[0], "diffusion": diffusion, "prior": self.prior(x)}
        total = self.table.num_levels
        by_level = {"t": (indices + 1) / total, "at_t": total * term, "error": error}
        mean = jnp.asarray(grouping(len(weights)), term.dtype)
        return {**terms, "total": sum(terms.values(), jnp.zeros(())), **{k: (mean @ v).T for k, v in by_level.items()}}

    def uncertainty(self, params: Params, batch: Batch, keys: Array) -> dict[str, Array]:
        """An image and, at five levels from T/50 to 3T/4, x̂ and w of log Σ = w log β + (1 − w) log β̃.

        'variance': [B, 11, H, W, C] in [0, 1]; black is β̃ (the image is known), white is β.
        """
        f, cond = self.encode(batch["image"]), self.told_of(batch)
        columns = [f]
        for share in (0.02, 0.1, 0.25, 0.5, 0.75):
            index = jnp.full(len(f), max(round(share * self.table.num_levels) - 1, 1))
            level = self.table.level(index)
            z = q_sample(f, normal_like(fold(keys, NOISE), self.shape, NOISE), level)
            found = self.split(self.denoise(params)(z, level, cond), z, level)
            assert found.variance_head is not None
            columns += [found.x, found.variance_head]
        return {"variance": jnp.clip((jnp.stack(columns, axis=1) + 1) / 2, 0, 1)}

    def chain(
        self,
        params: Params,
        cond: Any,
        num_steps: int,
        gradient: guidance.Gradient | None = None,
        scale: guidance.Weight = 0.0,
    ) -> Chain:
        """The sampler of the config over some of the levels.

        gradient: of log p(c|z), times `scale` in the mean of ancestral steps and in the score of DDIM's.
        """
        section = self.config.sampling
        table = self.spaced(section.respacing or str(num_steps))
        predict = conditioning.predictor(self.config, self.denoise(params), self.split, cond)
        step: samplers.Step
        if section.sampler == "ddim":
            if gradient is not None:
                predict = guidance.classifier(predict, gradient, classifier_scale=scale)
            step = samplers.ddim(predict, section.eta)
        else:
            gaussian = reverse.gaussian(predict, section.get("variance_mix", 0.0) or self.config.model.variance)
            if gradient is not None:
                gaussian = guidance.mean_shift(gaussian, gradient, classifier_scale=scale)
            step = reverse.drawn(gaussian)
        return Chain(
            start=lambda keys: samplers.prior_sample(fold(keys, START), self.shape, table.gamma[-1]),
            path_keys=lambda keys: fold(keys, PATH),
            step=step,
            steps=table.reverse(),
            end=lambda z, keys: self.decode(z),
        )


def grouping(count: int) -> np.ndarray:
    """[G, count]: every number by itself; of more than GROUPS, averages of neighbours between ends of equal ratio."""
    if count <= GROUPS:
        return np.eye(count)
    edges = np.unique(np.geomspace(1, count + 1, GROUPS + 1).round().astype(int) - 1)
    place = np.searchsorted(edges, np.arange(count), side="right") - 1
    members = (place[None, :] == np.arange(len(edges) - 1)[:, None]).astype(np.float64)
    return members / members.sum(1, keepdims=True)
