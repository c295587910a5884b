"""Overrides that would have no effect: of sections that a mode does not use, and of fields that another field disables.

A config may hold such fields, so that one config serves all modes. Who sets one on the command line expects an effect.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vdm_jax.common_fields import MEASURED
from vdm_jax.config.saved import flatten
from vdm_jax.errors import UserError

# field → (the field that disables it, whether its value does, the condition in words)
_NONE = "has no weight other than 0"
_IDLE: dict[str, tuple[str, Any, str]] = {
    "training.eval_examples": ("training.eval_every", lambda v: v == 0, "is 0"),
    "evaluation.tolerance": ("evaluation.estimator", lambda v: v != "ode", "is not 'ode'"),
    "sampling.guidance_interval": ("sampling.guidance", lambda v: not any(v), _NONE),
    "sampling.classifier_scale": ("sampling.classifier", lambda v: not v, "is ''"),
    "sampling.classifier_config": ("sampling.classifier", lambda v: not v, "is ''"),
    "model.fourier_damping": ("model.fourier", lambda v: not v, "is ()"),
}


def check(config: ConfigDict, names: Sequence[str], mode: str, whole: bool) -> None:
    """Check that every field that the command line sets has an effect.

    Args:
        config: The config with the overrides applied.
        names: The overridden fields, 'section.field'.
        mode: The mode of the command line.
        whole: Whether the command line also names the config; then its overrides may describe the run as a whole, as a
            repeated command of another mode does, and only fields that are disabled by others are refused.

    Raises:
        UserError: A field has no effect.
    """
    values = dict(flatten(config))
    for name in names:
        disabled_by, does, words = _IDLE.get(name, ("", None, ""))
        if disabled_by in values and values.get(name) and does is not None and does(values[disabled_by]):
            raise UserError(f"config.{name} has no effect while config.{disabled_by} {words}; leave it out")
        if not whole and name in values and not _used(name, mode, values):
            raise UserError(f"config.{name} has no effect with --mode={mode}; leave it out")


def _used(name: str, mode: str, values: Mapping[str, Any]) -> bool:
    """Return whether a mode uses a field."""
    section = name.partition(".")[0]
    unused: Collection[str] = ()
    if mode == "eval":
        draws = values.get("evaluation.num_samples", 0) or values["method"] not in MEASURED
        unused = ("training", "optimizer") if draws else ("training", "optimizer", "sampling")
    elif mode == "sample":
        unused = ("training", "optimizer", "evaluation")
    return section not in unused or name in ("evaluation.weights", "evaluation.split")
