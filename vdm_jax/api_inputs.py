"""What a notebook passes to a model, checked: one sentence for what cannot be."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.errors import UserError
from vdm_jax.fields import value
from vdm_jax.methods.base import Method
from vdm_jax.methods.conditioning import Conditioning, Guided

Labels = int | np.ndarray | None


def images(config: ConfigDict, given: np.ndarray) -> Array:
    """Images [N, …] of the model's shape and levels."""
    shape, levels, given = tuple(config.data.shape), config.data.vocabulary, np.asarray(given)
    if given.shape[1:] != shape:
        raise UserError(f"images of shape {given.shape[1:]} given, the model is for {shape}")
    if levels and given.size and (given.min() < 0 or given.max() >= levels):
        raise UserError(f"images must be levels 0 to {levels - 1}, these go to {given.max()}")
    return jnp.asarray(given)


def labels(config: ConfigDict, given: Labels, count: int, judged: int = 0) -> Array:
    """Labels [count], 0 without classes. judged: classes of a classifier that guides, which knows no null class."""
    classes, null = (judged, False) if judged else _known(config)
    if not classes:
        if given is not None:
            raise UserError("labels were given, but this model knows none (config.model.num_classes=0)")
        return jnp.zeros(count)
    if given is None:
        raise UserError(f"this model is told labels, 0 to {classes - 1}; give one, or one for each of the {count}")
    given = np.asarray(given)
    if given.dtype.kind not in "iu" or given.shape not in ((), (count,)):
        raise UserError(f"labels are one integer or {count} of them, not {given.dtype} of shape {given.shape}")
    given = np.broadcast_to(given, (count,))
    if count and (given.min() < 0 or given.max() >= classes + null):
        raise UserError(f"labels are 0 to {classes + null - 1}, these go from {given.min()} to {given.max()}")
    return jnp.asarray(given, jnp.int32)


def _known(config: ConfigDict) -> tuple[int, bool]:
    """(labels of the model, whether there is a null class)."""
    return value(config, "model.num_classes", 0), value(config, "model.null_class", False)


def beside(config: ConfigDict, method: Method, label: Array, low: np.ndarray | None) -> Any:
    """What a network is told: labels [N] and, of an upsampler, images [N, side, side, C] of a smaller model."""
    side = value(config, "model.low_resolution", 0)
    if not side:
        if low is not None:
            raise UserError("low_resolution was given, but this model is no upsampler (config.model.low_resolution=0)")
        return label
    shape, levels = (len(label), side, side, config.data.shape[-1]), config.data.vocabulary
    if low is None or np.shape(low) != shape:
        what = "nothing" if low is None else f"images of shape {np.shape(low)}"
        raise UserError(f"this model is an upsampler and enlarges images of shape {shape}, not {what}: low_resolution")
    numbers("low_resolution", low, None)
    if levels and np.size(low) and (np.min(low) < 0 or np.max(low) > levels - 1):
        raise UserError(f"low_resolution must be levels 0 to {levels - 1}, these go to {np.max(low)}")
    return Conditioning(label, method.encode(jnp.asarray(low)))


def guided(config: ConfigDict, told: Any, weight: float | np.ndarray, count: int) -> Any:
    """What the network is told, with the weight of each of `count` samples if there is guidance."""
    if not np.any(weight):
        return told
    if not value(config, "model.null_class", False):
        raise UserError("guidance needs a model that was also trained without labels (config.model.null_class)")
    return Guided(told, jnp.broadcast_to(jnp.asarray(numbers("guidance_weight", weight, count)), (count,)))


def numbers(name: str, given: float | np.ndarray, count: int | None) -> np.ndarray:
    """Finite numbers: one, or one for each of `count` samples, or of any shape if count is None."""
    array = np.asarray(given)
    if array.dtype.kind not in "iufb" or not np.all(np.isfinite(array)):
        raise UserError(f"{name} must be finite numbers")
    if count is not None and array.shape not in ((), (count,)):
        raise UserError(f"{name} is a finite number or one for each of the {count} samples")
    return array.astype(np.float32)
