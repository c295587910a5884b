"""DDPM sampling guided by a noisy classifier (Dhariwal & Nichol 2021, algorithms 1 and 2).

Ancestral steps shift their mean by s Σ ∇ log p(c | z), where Σ is fixed or learned per channel and pixel. DDIM shifts
the score. The diffusion model may be class-conditional or unconditional.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.conditioning.label import NAME as LABEL
from vdm_jax.conditioning.label import Label
from vdm_jax.core.method import Frozen, Method, Params
from vdm_jax.diffusion import guidance
from vdm_jax.methods import classifier, ddpm, guided

CLASSIFIER = "classifier"


def build(config: ConfigDict, guide: ConfigDict, scale: guidance.Weight | None = None) -> Method:
    """Build a DDPM whose samples are guided by a classifier; see `of_classifier`."""
    return guided.build(config, [of_classifier(config, guide, scale)])


def of_classifier(config: ConfigDict, guide: ConfigDict, scale: guidance.Weight | None = None) -> guided.Guide:
    """Return the guide of a classifier.

    Args:
        config: The config of the DDPM.
        guide: The config of the classifier.
        scale: The guidance scale s; None for `config.sampling.classifier_scale`.
    """
    classification = classifier.model(guide)

    def gradient(params: Params, values: Mapping[str, Array]) -> guidance.Gradient:
        label = values[LABEL]
        return guidance.class_gradient(classification.logits(params, label), label.astype(jnp.int32))

    # The classifier has no null class, so samples of it cannot be requested. A network without labels ignores them.
    guidable = any(c.name == LABEL and c.guidable for c in ddpm.model(config).conditions)
    part = Frozen(
        what="a noisy classifier",
        field="sampling.classifier",
        path=config.sampling.get("classifier", ""),
        config=guide,
        init=classification.diffusion.init,
    )
    return guided.Guide(
        key=CLASSIFIER,
        gradient=gradient,
        scale=config.sampling.classifier_scale if scale is None else scale,
        condition=Label(num_classes=guide.model.num_classes, null_class=guidable, null_samples=False),
        part=part,
    )
