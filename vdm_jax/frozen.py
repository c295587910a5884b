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
from vdm_jax.methods import classifier_guidance, clip_guidance, ddpm, guided
from vdm_jax.runtime import tokenizer, workdir
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


def guides_of(config: ConfigDict) -> list[guided.Guide]:
    """Return the guides of samples that a config names: a classifier, a noised CLIP, or both.

    Raises:
        UserError: The config of a guide is not known, or it cannot guide the model.
    """
    classifier, clip = classifier_of(config), clip_of(config)
    return [
        *([classifier_guidance.of_classifier(config, classifier)] if classifier is not None else []),
        *([clip_guidance.of_clip(config, clip)] if clip is not None else []),
    ]


def clip_of(config: ConfigDict) -> ConfigDict | None:
    """Return the config of the noised CLIP that guides sampling, or None without one.

    Raises:
        UserError: The config of the CLIP is not known, or the CLIP cannot guide the model.
    """
    path = configs.value(config, "sampling.clip_model", "")
    if not path:
        return None
    clip = _guide_config(path, config.sampling.clip_config, "clip_model", "configs/clip_glide.py")
    check_clip(config, clip, path)
    return clip


def check_clip(config: ConfigDict, guide: ConfigDict, path: str) -> None:
    """Check that a CLIP can guide the model of a config.

    Args:
        config: The config of the model.
        guide: The config of the CLIP.
        path: The path of the CLIP, for error messages.

    Raises:
        UserError: The CLIP cannot guide the model; names the field.
    """
    if config.method not in guided.METHODS:
        raise UserError(f"config.method={config.method!r} cannot be guided by a CLIP; {', '.join(guided.METHODS)} can")
    if guide.method != "clip" or not guide.model.get("noised", False):
        raise UserError(
            f"config.sampling.clip_model={path!r} is no CLIP of noised images; train one with config.method='clip' and "
            "config.model.noised=True"
        )
    for name in ("data.shape", "data.vocabulary"):
        ours, theirs = value(config, name, None), value(guide, name, None)
        if tuple(np.atleast_1d(ours)) != tuple(np.atleast_1d(theirs)):
            raise UserError(
                f"config.{name}={ours!r}, but the CLIP {path!r} was trained with {theirs!r}; use a CLIP of such images"
            )
    if config.sampling.sampler == "adaptive":
        raise UserError(
            "config.sampling.sampler='adaptive' solves the flow of the model alone; set another sampler for guidance "
            "by a CLIP"
        )


def classifier_of(config: ConfigDict) -> ConfigDict | None:
    """Return the config of the classifier that guides sampling, or None without classifier guidance.

    Raises:
        UserError: The config of the classifier is not known, or the classifier cannot guide the model.
    """
    path = configs.value(config, "sampling.classifier", "")
    if not path:
        return None
    named = config.sampling.classifier_config
    classifier = _guide_config(path, named, "classifier", "configs/adm_imagenet64.py:classifier")
    check_classifier(config, classifier, path)
    return classifier


def _guide_config(path: str, named: str, field: str, example: str) -> ConfigDict:
    """Return the checked config of a guide: the one that is named, or that of its working directory."""
    directory = place(path)[0]
    saved = None if named else workdir.saved_config(directory)
    if not named and saved is None:
        raise UserError(
            f"config.sampling.{field}={path!r} is not a working directory; for published weights set their config, "
            f"such as --config.sampling.{field.removesuffix('_model')}_config={example}"
        )
    config = configs.load(named) if saved is None else configs.from_saved(saved)
    configs.check(config)
    return tokenizer.located(config, directory)


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
