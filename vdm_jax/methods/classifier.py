"""The noisy classifier of guided diffusion (Dhariwal & Nichol 2021, arXiv:2105.05233, §4): log p(c | z_t) at every t.

Which choices make it: the table of the diffusion model that it is to guide, levels drawn as that model's are, and the
cross-entropy of the label at z_t, unweighted. It gives no samples and no likelihood; an evaluation measures the
cross-entropy and how often the label is found, by level. The label is the condition of the batch.
Weights of kernels alone decay, unlike in the original.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import common_fields as common
from vdm_jax.conditioning.label import NAME as LABEL
from vdm_jax.core.method import Batch, Context, Method, Params, PerExample, Phase, Terms
from vdm_jax.diffusion import tables
from vdm_jax.diffusion.process import Noise, q_sample
from vdm_jax.fields import Component
from vdm_jax.gaussian.discrete import Discrete, grouping
from vdm_jax.keys import fold, normal_like
from vdm_jax.methods import ddpm

COMPONENTS = (
    Component(
        {
            "model.network": common.network("multiscale"),
            "model.qkv_order": common.QKV_ORDER,
            "schedule.kind": common.schedule("ddpm_linear", "ddpm_cosine", "constant_sigma"),
            "training.times": common.times("stratified", "independent"),
            "evaluation.levels": common.LEVELS,
        },
        {"method": ("classifier",)},
    ),
)


def build(config: ConfigDict) -> Method:
    """A noisy classifier from a checked config."""
    made = model(config)
    levels, total = config.evaluation.levels, made.diffusion.table.num_levels
    return Method(
        init=made.diffusion.init,
        phases=(Phase("classifier", ("network",), made.loss),),
        schedule=lambda params: tables.Steps(made.diffusion.table),
        encode=made.diffusion.encode,
        conditions=made.diffusion.conditions,
        evaluators=(
            PerExample(
                "cross_entropy",
                made.terms,
                estimator=f"T={total}, {levels or total} levels an image",
                also=("accuracy",),
                by_level={"at_t": "cross_entropy", "error": "error_rate"},
            ),
        ),
    )


def model(config: ConfigDict) -> Classification:
    """The functions of `build`, and those behind them."""
    return Classification(ddpm.model(config))


class Classification(NamedTuple):
    """The functions of a method on one config. Parameters: {'network': …}; diffusion: of the model to guide."""

    diffusion: Discrete

    def logits(self, params: Params, label: Array) -> Callable[[Array, Noise], Array]:
        """(z [B, …], level of [B]) → logits [B, K], for `guidance.class_gradient`; label: [B], which is not seen."""
        denoise = self.diffusion.denoise(params)
        return lambda z, level: denoise(z, level, {})

    def judged(self, params: Params, batch: Batch, keys: Array, index: Array, dropout: Array | None = None) -> Terms:
        """cross_entropy = −log p(label | z_t) in nats, accuracy and top5, whether the label's logit is the largest, or
        among the largest five; [B] each, at one level of each example; index: int [B]."""
        level = self.diffusion.table.level(index)
        z = q_sample(self.diffusion.encode(batch["x"]), normal_like(keys, self.diffusion.shape, ddpm.NOISE), level)
        label = batch["cond"][LABEL].astype(jnp.int32)[:, None]
        logits = self.diffusion.denoise(params, dropout)(z, level, {})
        of_label = jnp.take_along_axis(logits, label, axis=1)
        sooner = jnp.arange(logits.shape[1])[None, :] < label  # of equal logits the first is taken
        above = jnp.sum((logits > of_label) | ((logits == of_label) & sooner), axis=1)
        return {
            "cross_entropy": jax.nn.logsumexp(logits, axis=1) - of_label[:, 0],
            "accuracy": (above < 1).astype(logits.dtype),
            "top5": (above < 5).astype(logits.dtype),
        }

    def loss(self, params: Params, extra: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        """The cross-entropy at one level of each example, nats; aux: t = ℓ/T, accuracy, top5."""
        index, _ = self.diffusion.draw(extra, context)
        found = self.judged(params, batch, context.keys, index, fold(context.keys, ddpm.DROPOUT))
        entropy = found.pop("cross_entropy")
        t = (index + 1).astype(entropy.dtype) / self.diffusion.table.num_levels
        return entropy, {"t": t, **found}

    def terms(self, params: Params, batch: Batch, keys: Array) -> Terms:
        """Means over all levels, [B]: total, the cross-entropy in nats, accuracy, top5; by level, in groups [B, G]: t,
        at_t (the cross-entropy) and error, the share of labels that are not found. One noise per level."""
        indices, weights = self.diffusion.levels(keys)

        def body(_: None, now: tuple[Array, Array]) -> tuple[None, Terms]:
            number, index = now
            return None, self.judged(params, batch, fold(fold(keys, ddpm.NOISE), number), index)

        _, found = jax.lax.scan(body, None, (jnp.arange(len(weights)), indices))
        total, dtype = self.diffusion.table.num_levels, found["accuracy"].dtype
        mean, group = jnp.asarray(weights / weights.sum(), dtype), jnp.asarray(grouping(len(weights)), dtype)
        by_level = {"t": (indices + 1) / total, "at_t": found["cross_entropy"], "error": 1 - found["accuracy"]}
        means = {name: mean @ value for name, value in found.items()}
        means["total"] = means.pop("cross_entropy")
        return means | {name: (group @ value.astype(dtype)).T for name, value in by_level.items()}
