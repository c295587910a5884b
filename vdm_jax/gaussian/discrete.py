"""Gaussian diffusions on a table of noise levels: the objectives, the bound and the sampler of DDPM.

    L_simple = ‖ε − ε̂‖²/D,    L_vlb = T times the bound's term in bits/dim,    L_hybrid = L_simple + λ L_vlb

(Ho et al. 2020; Nichol & Dhariwal 2021, §3). In L_hybrid, L_vlb trains only the variance.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vdm_jax.core.chain import Chain
from vdm_jax.core.method import Batch, Context, Params, Terms
from vdm_jax.diffusion import decoders, guidance, losses, prediction, reverse, samplers, tables, times
from vdm_jax.diffusion.process import Noise, q_sample
from vdm_jax.gaussian.base import Gaussian
from vdm_jax.keys import fold, normal_like

# The largest number of groups of noise levels over which terms by level are averaged.
GROUPS = 100


class Purposes(NamedTuple):
    """The numbers that keys are folded with; they are distinct within a method."""

    level: int
    noise: int
    dropout: int
    start: int
    path: int


def uniform_levels(kind: str, context: Context, purpose: int, count: int) -> Array:
    """Draw the index of one of `count` levels for each example, int [b], all equally likely.

    Args:
        kind: 'stratified' over the global batch, or 'independent'.
        context: The keys and positions of the examples.
        purpose: The number that keys are folded with.
        count: The number of levels.
    """
    if kind == "stratified":
        u = jax.random.uniform(jax.random.fold_in(context.key, purpose))
        return times.to_level(times.stratified(u, context.index, context.total), count)
    return times.to_level(times.independent(fold(context.keys, purpose)), count)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Discrete(Gaussian):
    """A diffusion on T noise levels. Its parameters are {'network': …}.

    Attributes:
        betas: β of all levels, float64 [T].
        time_input: The network's time input at all levels, float64 [T].
        purposes: The numbers that keys are folded with.
        weighting: The objective, 'simple', 'hybrid' or 'vlb'.
        vlb_weight: λ of 'hybrid'.
        times: The distribution of levels in training, 'stratified', 'independent' or 'importance'.
        variance: The variance of a reverse step, see `diffusion.reverse`.
        cdf: The normal CDF of the discretized Gaussian, 'exact' or 'tanh'.
        clip_evaluation: Whether the bound clips x̂.
        num_evaluated: The number of levels per example in the bound; 0 for all.
    """

    betas: np.ndarray
    time_input: np.ndarray
    purposes: Purposes
    weighting: str = "simple"
    vlb_weight: float = 0.001
    times: str = "stratified"
    variance: str = "posterior"
    cdf: str = "exact"
    clip_evaluation: bool = True
    num_evaluated: int = 0

    @property
    def table(self) -> tables.Table:
        """The table of all levels."""
        return tables.from_betas(self.betas, self.time_input)

    def init(self, key: Array) -> Params:
        """Initialize the parameters."""
        return {"network": self.init_network(key)}

    def encode(self, x: Array) -> Array:
        """Map pixel values to [−1, 1], both ends included; return continuous data unchanged."""
        return decoders.encode_to_ends(x, self.vocabulary)

    def decode(self, z: Array) -> Array:
        """Map z to the nearest pixel value; return continuous data unchanged."""
        return decoders.decode_from_ends(z, self.vocabulary)

    def init_history(self) -> Any:
        """Initialize the loss history of every level; empty unless levels are drawn by importance."""
        return times.no_history(self.table.num_levels) if self.times == "importance" else ()

    def update_history(self, history: Any, aux: Terms) -> Any:
        """Add the losses of this step to the history; aux is in the order of the global batch."""
        if self.times != "importance":
            return history
        index = jnp.round(aux["t"] * self.table.num_levels).astype(jnp.int32) - 1
        return times.remember(history, index, aux["diffusion"])

    def evaluated(self, raw: Array, z: Array, level: Noise) -> prediction.Prediction:
        """Convert the raw output as `split` does, with x̂ clipped if the bound clips it."""
        predicted = self.split(raw, z, level)
        return prediction.clipped(predicted, z, level) if self.clip_evaluation and self.vocabulary else predicted

    def term(self, x: Array, z: Array, eps: Array, found: prediction.Prediction, step: samplers.Transition) -> Array:
        """Compute the bound's term for one step per example, [B] in bits/dim; found: the prediction at z."""
        decoder = reverse.discretized(x, self.vocabulary, self.cdf) if self.vocabulary else reverse.density(x)
        nats = reverse.bound_term(decoder, z, eps, found, step, self.variance)
        return losses.bits_per_dim(nats, self.dimensions)

    def draw(self, history: Any, context: Context) -> tuple[Array, Array]:
        """Draw one level per example: its index, int [b], and its weight 1/(T p), [b]."""
        count, purpose = self.table.num_levels, self.purposes.level
        if self.times == "importance":
            p = times.importance(history)
            index = times.draw_levels(fold(context.keys, purpose), p)
            return index, 1 / (count * p[index])
        return uniform_levels(self.times, context, purpose, count), jnp.ones(len(context.index))

    def spaced(self, spacing: str) -> tables.Table:
        """Return the table of the levels that `spacing` selects, such as '250', 'ddim50' or 'even8'."""
        indices = tables.spaced(self.table.num_levels, spacing)
        return tables.from_betas(tables.merge(self.betas, indices), self.time_input[indices])

    def loss(self, params: Params, history: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        """Compute L_simple, L_hybrid or L_vlb per example, [b].

        aux: t = ℓ/T, error = ‖ε − ε̂‖²/D, diffusion = L_vlb, and bits_per_dim, an estimate of the complete bound.
        """
        index, weight = self.draw(history, context)
        dropout = fold(context.keys, self.purposes.dropout)
        error, vlb = self.at_levels(params, batch, context.keys, index, dropout, self.weighting == "hybrid")
        objective = {
            "simple": lambda: error,
            "hybrid": lambda: error + self.vlb_weight * vlb,
            "vlb": lambda: vlb,
        }[self.weighting]()
        t = (index + 1).astype(error.dtype) / self.table.num_levels
        aux = {"t": t, "error": error, "diffusion": vlb, "bits_per_dim": weight * vlb + self.prior(batch["x"])}
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
        """Compute ‖ε − ε̂‖²/D and L_vlb in bits/dim at the level `index` of each example, each [B].

        Dropout keys [B], passed in training, also turn on the dropping of conditions. With frozen_mean, the gradient
        of L_vlb with respect to ε̂ is stopped.
        """
        x, step = batch["x"], self.table.at(index)
        eps = normal_like(keys, self.shape, self.purposes.noise)
        z = q_sample(self.encode(x), eps, step.frm)
        cond = self.cond_of(batch, None if dropout is None else keys)
        predicted = self.split(self.denoise(params, dropout)(z, step.frm, cond), z, step.frm)
        error = losses.error_per_dim(losses.squared_error(eps, predicted.eps), z)
        if frozen_mean:
            stop = jax.lax.stop_gradient
            predicted = predicted._replace(x=stop(predicted.x), eps=stop(predicted.eps))
        return error, self.table.num_levels * self.term(x, z, eps, predicted, step)

    def prior(self, x: Array) -> Array:
        """Compute KL(q(z_T|x) ‖ N(0, I)), [B] in bits/dim."""
        return losses.bits_per_dim(losses.prior(self.encode(x), self.table.gamma[-1]), self.dimensions)

    def levels(self, keys: Array) -> tuple[Array, np.ndarray]:
        """Choose the K levels of each example in the bound: indices [K, B], and weights [K] in the sum over levels.

        They are all T levels, or level 1 and one level drawn from each of K − 1 equal strata of the others.
        """
        total, count = self.table.num_levels, self.num_evaluated or self.table.num_levels
        if count >= total:
            every = jnp.arange(total)[:, None]
            return jnp.broadcast_to(every, (total, len(keys))), np.ones(total)
        strata = count - 1
        u = jax.vmap(lambda k: jax.random.uniform(k, (strata,)))(fold(keys, self.purposes.level)).T
        place = (jnp.arange(strata)[:, None].astype(u.dtype) + u) * ((total - 1) / strata)
        rest = 1 + jnp.minimum(jnp.floor(place), total - 2).astype(jnp.int32)
        weights = np.array([1.0] + [(total - 1) / strata] * strata)
        return jnp.concatenate([jnp.zeros((1, len(keys)), jnp.int32), rest]), weights

    def bits_per_dim(self, params: Params, batch: Batch, keys: Array) -> Terms:
        """Compute the terms of the bound on −log₂ p(x)/D with one noise per level.

        Returns:
            The terms and their sum 'total', [B] in bits/dim. By groups of levels, [B, G]: 't', 'at_t' = T times the
            term, and 'error' = ‖ε − ε̂‖²/D.
        """
        x, cond = batch["x"], self.cond_of(batch)
        f, denoise = self.encode(x), self.denoise(params)
        indices, weights = self.levels(keys)

        def body(_: None, level: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
            number, index = level
            step = self.table.at(index)
            eps = normal_like(fold(fold(keys, self.purposes.noise), number), self.shape, self.purposes.noise)
            z = q_sample(f, eps, step.frm)
            predicted = self.evaluated(denoise(z, step.frm, cond), z, step.frm)
            error = losses.error_per_dim(losses.squared_error(eps, predicted.eps), z)
            return None, (self.term(x, z, eps, predicted, step), error)

        _, (term, error) = jax.lax.scan(body, None, (jnp.arange(len(weights)), indices))
        diffusion = jnp.asarray(weights[1:], term.dtype) @ term[1:]
        terms = {"reconstruction": term[0], "diffusion": diffusion, "prior": self.prior(x)}
        total = self.table.num_levels
        by_level = {"t": (indices + 1) / total, "at_t": total * term, "error": error}
        mean = jnp.asarray(grouping(len(weights)), term.dtype)
        return {**terms, "total": sum(terms.values(), jnp.zeros(())), **{k: (mean @ v).T for k, v in by_level.items()}}

    def uncertainty(self, params: Params, batch: Batch, keys: Array) -> dict[str, Array]:
        """Draw x̂ and the learned variance at five levels from T/50 to 3T/4, next to the image.

        'variance' [B, 11, H, W, C] in [0, 1] shows w of log Σ = w log β + (1 − w) log β̃: black is β̃ (the image is
        known), white is β.
        """
        f, cond = self.encode(batch["x"]), self.cond_of(batch)
        columns = [f]
        for share in (0.02, 0.1, 0.25, 0.5, 0.75):
            index = jnp.full(len(f), max(round(share * self.table.num_levels) - 1, 1))
            level, noise = self.table.level(index), self.purposes.noise
            z = q_sample(f, normal_like(fold(keys, noise), self.shape, noise), level)
            predicted = self.split(self.denoise(params)(z, level, cond), z, level)
            assert predicted.variance_head is not None
            columns += [predicted.x, predicted.variance_head]
        return {"variance": jnp.clip((jnp.stack(columns, axis=1) + 1) / 2, 0, 1)}

    def chain(
        self,
        params: Params,
        cond: Any,
        num_steps: int,
        gradient: guidance.Gradient | None = None,
        scale: guidance.Weight = 0.0,
    ) -> Chain:
        """Return the sampler over the levels that `sampling.respacing` or num_steps selects.

        The gradient ∇ log p(c|z) of a classifier, times `scale`, shifts the mean of ancestral steps and the score of
        DDIM.
        """
        sampler = self.sampler
        table = self.spaced(sampler.respacing or str(num_steps))
        predict = self.predictor(self.denoise(params), cond)
        step: samplers.Step
        if sampler.name == "ddim":
            if gradient is not None:
                predict = guidance.classifier(predict, gradient, classifier_scale=scale)
            step = samplers.ddim(predict, sampler.eta)
        else:
            gaussian = reverse.gaussian(predict, sampler.variance_mix or self.variance)
            if gradient is not None:
                gaussian = guidance.mean_shift(gaussian, gradient, classifier_scale=scale)
            step = reverse.drawn(gaussian)
        return Chain(
            start=lambda keys: samplers.prior_sample(fold(keys, self.purposes.start), self.shape, table.gamma[-1]),
            path_keys=lambda keys: fold(keys, self.purposes.path),
            step=step,
            steps=table.reverse(),
            end=lambda z, keys: self.decode(z),
        )


def grouping(count: int) -> np.ndarray:
    """Return the matrix [G, count] that averages levels by group.

    Each level is a group of its own up to GROUPS levels; beyond, the edges of groups are spaced geometrically.
    """
    if count <= GROUPS:
        return np.eye(count)
    edges = np.unique(np.geomspace(1, count + 1, GROUPS + 1).round().astype(int) - 1)
    place = np.searchsorted(edges, np.arange(count), side="right") - 1
    members = (place[None, :] == np.arange(len(edges) - 1)[:, None]).astype(np.float64)
    return members / members.sum(1, keepdims=True)
