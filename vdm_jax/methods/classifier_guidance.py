"""DDPM sampling guided by a noisy classifier (Dhariwal & Nichol 2021, algorithms 1 and 2).

Ancestral steps shift their mean by s Σ ∇ log p(c | z), where Σ is fixed or learned per channel and pixel. DDIM shifts
the score. The diffusion model may be class-conditional or unconditional.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from vdm_jax.conditioning import Guided
from vdm_jax.conditioning.label import NAME as LABEL
from vdm_jax.conditioning.label import Label
from vdm_jax.core import chain as chains
from vdm_jax.core.chain import Chain
from vdm_jax.core.method import Frozen, Method, Params
from vdm_jax.diffusion import guidance
from vdm_jax.methods import classifier, ddpm

CLASSIFIER = "classifier"


def build(config: ConfigDict, guide: ConfigDict, scale: guidance.Weight | None = None) -> Method:
    """Build a DDPM whose samples are guided by a classifier.

    Args:
        config: The config of the DDPM.
        guide: The config of the classifier.
        scale: The guidance scale s; None for `config.sampling.classifier_scale`.

    Returns:
        The method of the DDPM; its params hold those of the classifier under 'classifier'.
    """
    diffusion, classification = ddpm.model(config), classifier.model(guide)
    scale = config.sampling.classifier_scale if scale is None else scale

    def chain(params: Params, cond: Any, num_steps: int) -> Chain:
        label = (cond.cond if isinstance(cond, Guided) else cond)[LABEL]
        logits = classification.logits(params[CLASSIFIER], label)
        gradient = guidance.class_gradient(logits, label.astype(jnp.int32))
        return diffusion.chain(params, cond, num_steps, gradient, scale)

    # The classifier has no null class, so samples of it cannot be requested. A network without labels ignores them.
    guidable = any(c.name == LABEL and c.guidable for c in diffusion.conditions)
    label = Label(num_classes=guide.model.num_classes, null_class=guidable, null_samples=False)
    conditions = (*(c for c in diffusion.conditions if c.name != LABEL), label)
    part = Frozen(
        what="a noisy classifier",
        field="sampling.classifier",
        path=config.sampling.get("classifier", ""),
        config=guide,
        init=classification.diffusion.init,
    )
    return ddpm.build(config)._replace(
        sample=chains.sampler(chain), chain=chain, conditions=conditions, frozen={CLASSIFIER: part}
    )
