"""A DDPM's samples guided by a noisy classifier (Dhariwal & Nichol 2021, algorithms 1 and 2).

Ancestral steps shift their mean by s Σ ∇ log p(c | z), Σ learned for every channel and pixel or not; DDIM shifts the
score. The diffusion model may know the labels itself or not.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vdm_jax.conditioning import Guided
from vdm_jax.conditioning.label import NAME as LABEL
from vdm_jax.conditioning.label import Label
from vdm_jax.config import active, flatten
from vdm_jax.core import chain as chains
from vdm_jax.core.chain import Chain
from vdm_jax.core.method import Frozen, Method, Params
from vdm_jax.diffusion import guidance
from vdm_jax.errors import UserError
from vdm_jax.fields import value
from vdm_jax.gaussian import networks
from vdm_jax.methods import classifier, ddpm

CLASSIFIER = "classifier"


def check(config: ConfigDict, judge: ConfigDict, path: str) -> None:
    """Raise UserError unless the classifier at `path`, of the config `judge`, can guide samples of the config."""
    if config.method != "ddpm":
        raise UserError(
            f"config.sampling.classifier guides the levels of a table, and config.method={config.method!r} has none; "
            "give it the weights of a DDPM"
        )
    if judge.method != "classifier":
        raise UserError(
            f"config.sampling.classifier={path!r} has config.method={judge.method!r}; a guide has to be trained on "
            "noisy images, by config.method='classifier'"
        )
    ours, theirs = dict(flatten(config)), dict(flatten(judge))
    for name in _shared(config):
        if name in ours and name in theirs and ours[name] != theirs[name]:
            raise UserError(
                f"config.{name}={ours[name]!r}, but the classifier {path!r} was trained with {theirs[name]!r}; it "
                "guides models of its own images and levels alone"
            )
    count = len(ddpm.betas_of(config))
    if not np.array_equal(networks.time_input(config, count), networks.time_input(judge, count)):
        raise UserError(
            f"config.model.network={config.model.network!r} is told t, but the classifier {path!r} the number of a "
            "level; it guides models of config.model.network='multiscale'"
        )
    classes = config.model.get("num_classes", 0)
    if classes and classes != judge.model.num_classes:
        raise UserError(
            f"config.model.num_classes={classes}, but the classifier {path!r} knows {judge.model.num_classes} classes; "
            "take one of the same data"
        )
    if (label := value(config, "sampling.label", -1)) >= judge.model.num_classes:
        raise UserError(
            f"config.sampling.label={label} is none of the {judge.model.num_classes} labels that the "
            f"classifier {path!r} knows"
        )


def _shared(config: ConfigDict) -> tuple[str, ...]:
    """What a classifier shares with what it guides: the images, the levels and the network's time input."""
    decisive = [name for name, field in active(dict(flatten(config))).items() if field.decisive]
    return (*(name for name in decisive if name.startswith(("data.", "schedule."))), "model.rescale_time")


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
