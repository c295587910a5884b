"""Resolve, check and load the frozen parts of a model, such as a teacher or a guiding classifier."""

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
    """Load the params of the frozen parts of a method from their paths.

    Args:
        method: The method.
        training: False to omit the parts that only losses use.

    Returns:
        A dictionary from the names of the parts to their params.

    Raises:
        UserError: A path is missing, or the weights do not fit.
    """
    parts = {}
    for name, part in method.frozen.items():
        if part.training_only and not training:
            continue
        if not part.path:
            raise UserError(
                f"config.{part.field} is missing: this model needs {part.what}; set it to its working directory, "
                "or pass that as --weights of a new run"
            )
        config = configs.choose(ConfigDict(part.config.to_dict()), {})  # only with the fields of the part
        parts[name] = part.select(load(part.path, config, methods.build(config))[0])
    return parts


def named_by(path: str | None, config: ConfigDict, saved: Mapping[str, Any] | None) -> tuple[str | None, bool]:
    """Set the empty paths of frozen parts of a config, in place, from the saved config or --weights.

    Args:
        path: The path of --weights, or None.
        config: The config of the run.
        saved: The config that is saved in the working directory, or None.

    Returns:
        (the path that --weights still refers to, or None; True if `path` was used for a frozen part).
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
    """Return the config of the classifier that guides sampling, or None without classifier guidance.

    Raises:
        UserError: The config of the classifier is not known, or the classifier cannot guide the model.
    """
    path = configs.value(config, "sampling.classifier", "")
    if not path:
        return None
    named = config.sampling.classifier_config
    saved = None if named else workdir.saved_config(place(path)[0])
    if not named and saved is None:
        raise UserError(
            f"config.sampling.classifier={path!r} is not a working directory; for published weights set their config, "
            "such as --config.sampling.classifier_config=configs/adm_imagenet64.py:classifier"
        )
    classifier = configs.load(named) if saved is None else configs.from_saved(saved)
    configs.check(classifier)
    check_classifier(config, classifier, path)
    return classifier


def check_classifier(config: ConfigDict, guide: ConfigDict, path: str) -> None:
    """Check that a classifier can guide the model of a config.

    Args:
        config: The config of the model.
        guide: The config of the classifier.
        path: The path of the classifier, for error messages.

    Raises:
        UserError: The classifier cannot guide the model; names the field.
    """
    if config.method != "ddpm":
        raise UserError(
            f"config.sampling.classifier needs a table of noise levels, and config.method={config.method!r} has none; "
            "use a model with config.method='ddpm'"
        )
    if guide.method != "classifier":
        raise UserError(
            f"config.sampling.classifier={path!r} has config.method={guide.method!r}; a classifier for guidance "
            "has to be trained on noisy images, with config.method='classifier'"
        )
    ours, theirs = dict(flatten(config)), dict(flatten(guide))
    for name in _shared(config):
        if name in ours and name in theirs and ours[name] != theirs[name]:
            raise UserError(
                f"config.{name}={ours[name]!r}, but the classifier {path!r} was trained with {theirs[name]!r}; "
                "use a classifier of the same images and noise levels"
            )
    count = len(ddpm.betas_of(config))
    if not np.array_equal(networks.time_input(config, count), networks.time_input(guide, count)):
        raise UserError(
            f"config.model.network={config.model.network!r} has the time input t, but the classifier {path!r} has the "
            "index of a noise level; set config.model.network='multiscale'"
        )
    classes = config.model.get("num_classes", 0)
    if classes and classes != guide.model.num_classes:
        raise UserError(
            f"config.model.num_classes={classes}, but the classifier {path!r} has {guide.model.num_classes} classes; "
            "use a classifier of the same data set"
        )
    if (label := value(config, "sampling.label", -1)) >= guide.model.num_classes:
        raise UserError(
            f"config.sampling.label={label} is not one of the {guide.model.num_classes} classes of the classifier "
            f"{path!r}; set it to a smaller label"
        )


def _shared(config: ConfigDict) -> tuple[str, ...]:
    """Return the fields that must agree: those of the images, the noise levels and the network's time input."""
    decisive = [name for name, field in active(dict(flatten(config))).items() if field.decisive]
    return (*(name for name in decisive if name.startswith(("data.", "schedule."))), "model.rescale_time")
