"""The noisy classifier of guided diffusion (Dhariwal & Nichol 2021, arXiv:2105.05233, §4): log p(c | z_t) at every t.

The classifier uses the table of noise levels of the diffusion model that it will guide, draws levels in the same way,
and minimizes the unweighted cross-entropy of the label at z_t. It has no samples and no likelihood. An evaluation
measures the cross-entropy and the accuracy by noise level. The label is the condition of the batch. Unlike in the
original, weight decay applies to kernels only.
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
    """Build a noisy classifier from a checked config."""
    classification = model(config)
    levels, total = config.evaluation.levels, classification.diffusion.table.num_levels
    return Method(
        init=classification.diffusion.init,
        phases=(Phase("classifier", ("network",), classification.loss),),
        schedule=lambda params: tables.Steps(classification.diffusion.table),
        encode=classification.diffusion.encode,
        conditions=classification.diffusion.conditions,
        evaluators=(
            PerExample(
                "cross_entropy",
                classification.terms,
                estimator=f"T={total}, {levels or total} levels an image",
                also=("accuracy",),
                by_level={"at_t": "cross_entropy", "error": "error_rate"},
            ),
        ),
    )


def model(config: ConfigDict) -> Classification:
    """Return the model that `build` turns into a method."""
    return Classification(ddpm.model(config))


class Classification(NamedTuple):
    """A noisy classifier. Its parameters are {'network': …}.

    Attributes:
        diffusion: The diffusion whose table, encoding and level distribution the classifier uses.
    """

    diffusion: Discrete

    def logits(self, params: Params, label: Array) -> Callable[[Array, Noise], Array]:
        """Return the function (z [B, …], level [B]) → logits [B, K] for `guidance.class_gradient`.

        Args:
            params: The parameters of the classifier.
            label: Labels [B]; the logits do not depend on them.
        """
        denoise = self.diffusion.denoise(params)
        return lambda z, level: denoise(z, level, {})

    def classified(
        self, params: Params, batch: Batch, keys: Array, index: Array, dropout: Array | None = None
    ) -> Terms:
        """Compute the metrics of the classifier at one noise level per example.

        Args:
            params: The parameters of the classifier.
            batch: A batch with the condition 'label'.
            keys: One key per example, [B].
            index: The index of the noise level of each example, int [B].
            dropout: Keys [B] that switch dropout on.

        Returns:
            'cross_entropy' = −log p(label | z_t) in nats, and 'accuracy' and 'top5', which are 1 if the label's logit
            is the largest or among the five largest, else 0; each [B].
        """
        level = self.diffusion.table.level(index)
        z = q_sample(self.diffusion.encode(batch["x"]), normal_like(keys, self.diffusion.shape, ddpm.NOISE), level)
        label = batch["cond"][LABEL].astype(jnp.int32)[:, None]
        logits = self.diffusion.denoise(params, dropout)(z, level, {})
        of_label = jnp.take_along_axis(logits, label, axis=1)
        earlier = jnp.arange(logits.shape[1])[None, :] < label  # ties go to the lower class, as in argmax
        above = jnp.sum((logits > of_label) | ((logits == of_label) & earlier), axis=1)
        return {
            "cross_entropy": jax.nn.logsumexp(logits, axis=1) - of_label[:, 0],
            "accuracy": (above < 1).astype(logits.dtype),
            "top5": (above < 5).astype(logits.dtype),
        }

    def loss(self, params: Params, extra: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        """Return the cross-entropy at one noise level per example, [b] in nats, and aux: t = ℓ/T, accuracy, top5."""
        index, _ = self.diffusion.draw(extra, context)
        metrics = self.classified(params, batch, context.keys, index, fold(context.keys, ddpm.DROPOUT))
        entropy = metrics.pop("cross_entropy")
        t = (index + 1).astype(entropy.dtype) / self.diffusion.table.num_levels
        return entropy, {"t": t, **metrics}

    def terms(self, params: Params, batch: Batch, keys: Array) -> Terms:
        """Compute the metrics averaged over all noise levels, and by noise level, with one noise per level.

        Args:
            params: The parameters of the classifier.
            batch: A batch with the condition 'label'.
            keys: One key per example, [B].

        Returns:
            Means [B]: 'total' (the cross-entropy in nats), 'accuracy' and 'top5'. By groups of noise levels [B, G]:
            't', 'at_t' (the cross-entropy) and 'error' (the share of misclassified labels).
        """
        indices, weights = self.diffusion.levels(keys)

        def body(_: None, level: tuple[Array, Array]) -> tuple[None, Terms]:
            number, index = level
            return None, self.classified(params, batch, fold(fold(keys, ddpm.NOISE), number), index)

        _, metrics = jax.lax.scan(body, None, (jnp.arange(len(weights)), indices))
        total, dtype = self.diffusion.table.num_levels, metrics["accuracy"].dtype
        mean, group = jnp.asarray(weights / weights.sum(), dtype), jnp.asarray(grouping(len(weights)), dtype)
        by_level = {"t": (indices + 1) / total, "at_t": metrics["cross_entropy"], "error": 1 - metrics["accuracy"]}
        means = {name: mean @ value for name, value in metrics.items()}
        means["total"] = means.pop("cross_entropy")
        return means | {name: (group @ value.astype(dtype)).T for name, value in by_level.items()}
