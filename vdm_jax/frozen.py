"""Frozen parts of a model: found by their paths, checked against it, and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vdm_jax import config as configs
from vdm_jax import methods
from vdm_jax.config import active, flatten
from vdm_jax.core.method import Method
from vdm_jax.errors import UserError
from vdm_jax.fields import value
from vdm_jax.gaussian import networks
from vdm_jax.methods import ddpm
from vdm_jax.runtime import workdir
from vdm_jax.weights import load, place


def load_parts(method: Method, training: bool = True) -> dict[str, Any]:
    """The params of the method's frozen parts, from their paths; UserError if one is missing or does not fit.

    training: False leaves out those that only losses use.
    """
    found = {}
    for name, part in method.frozen.items():
        if part.training_only and not training:
            continue
        if not part.path:
            raise UserError(
                f"config.{part.field} is missing: this model needs {part.what}; give its working directory there, or "
                "as --weights of a new run"
            )
        of = configs.choose(ConfigDict(part.config.to_dict()), {})  # with the fields of its own parts alone
        found[name] = part.select(load(part.path, of, methods.build(of))[0])
    return found


def named_by(path: str | None, config: ConfigDict, saved: Mapping[str, Any] | None) -> tuple[str | None, bool]:
    """Fill the paths of frozen parts that the config leaves out, from --weights or what a directory was made with.

    Returns (what --weights still has to give, whether the path named a frozen part).
    """
    for part in methods.build(config).frozen.values():
        if part.path:
            continue
        section, _, field = part.field.partition(".")
        known = (saved or {}).get(section, {}).get(field, "")
        if known or path:
            config[section][field] = known or path
            return None, not known
    return path, False


def classifier_of(config: ConfigDict) -> ConfigDict | None:
    """The config of the classifier that guides samples, if one does; UserError if it cannot guide them."""
    path = configs.value(config, "sampling.classifier", "")
    if not path:
        return None
    named = config.sampling.classifier_config
    saved = None if named else workdir.saved_config(place(path)[0])
    if not named and saved is None:
        raise UserError(
            f"config.sampling.classifier={path!r} is no working directory; for published weights say their config, "
            "such as --config.sampling.classifier_config=configs/adm_imagenet64.py:classifier"
        )
    judge = configs.load(named) if saved is None else configs.from_saved(saved)
    configs.check(judge)
    check_classifier(config, judge, path)
    return judge


def check_classifier(config: ConfigDict, judge: ConfigDict, path: str) -> None:
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
