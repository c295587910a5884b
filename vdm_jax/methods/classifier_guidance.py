"""A DDPM's samples guided by a noisy classifier (Dhariwal & Nichol 2021, algorithms 1 and 2).

Ancestral steps shift their mean by s Σ ∇ log p(c | z), Σ learned for every channel and pixel or not; DDIM shifts the
score. The diffusion model may know the labels itself or not.
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


def build(config: ConfigDict, judge: ConfigDict, scale: guidance.Weight | None = None) -> Method:
    """The DDPM of a config with samples that the classifier of `judge` guides.

    params: the DDPM's, with the classifier's under 'classifier'. scale: s, that of the config if there is none.
    """
    made, judging = ddpm.model(config), classifier.model(judge)
    scale = config.sampling.classifier_scale if scale is None else scale

    def chain(params: Params, cond: Any, num_steps: int) -> Chain:
        label = (cond.cond if isinstance(cond, Guided) else cond)[LABEL]
        logits = judging.logits(params[CLASSIFIER], label)
        gradient = guidance.class_gradient(logits, label.astype(jnp.int32))
        return made.chain(params, cond, num_steps, gradient, scale)

    # the classifier knows no null class; a network without labels does not look at them
    guidable = any(c.name == LABEL and c.guidable for c in made.conditions)
    label = Label(num_classes=judge.model.num_classes, null_class=guidable, null_samples=False)
    conditions = (*(c for c in made.conditions if c.name != LABEL), label)
    part = Frozen(
        what="a noisy classifier",
        field="sampling.classifier",
        path=config.sampling.get("classifier", ""),
        config=judge,
        init=judging.diffusion.init,
    )
    return ddpm.build(config)._replace(
        sample=chains.sampler(chain), chain=chain, conditions=conditions, frozen={CLASSIFIER: part}
    )
