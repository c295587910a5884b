"""Checks of the arrays that a notebook passes to a model, before anything is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import arguments, conditioning
from vdm_jax.api import programs
from vdm_jax.core.method import Method
from vdm_jax.errors import UserError


def images(config: ConfigDict, given: Any) -> np.ndarray:
    """Return images [N, …] as int32 or, for continuous data, floats.

    Raises:
        UserError: There are none, or they do not have the shape or the values of the model's data.
    """
    array = arguments.pixels("images", given, config.data.vocabulary)
    _check_shape("images", array.shape, tuple(config.data.shape))
    return array


def latents(config: ConfigDict, method: Method, given: Any) -> np.ndarray:
    """Return latents z [N, …] as floats; UserError unless they are finite and of the shape of encoded data."""
    array = arguments.reals("latents", given)
    _check_shape("latents", array.shape, programs.encoded_shape(method.encode, tuple(config.data.shape)))
    return array.astype(np.result_type(array.dtype, np.float32))


def mask(given: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return a bool mask, broadcast to the shape of the images; UserError unless it is one of True and False."""
    array = np.asarray(given)
    if array.dtype != np.bool_ and not (array.dtype.kind in "iuf" and np.all((array == 0) | (array == 1))):
        raise UserError("known must be a mask of True (keep the pixel) and False (replace it), or of 1 and 0")
    try:
        return np.broadcast_to(array.astype(bool), shape)
    except ValueError as error:
        raise UserError(
            f"known has shape {array.shape}, which does not broadcast to the images' {shape}; pass a mask of shape "
            f"{shape[1:]} or {shape}"
        ) from error


def strength(given: Any, num_steps: int) -> float:
    """Return a fraction of the sampling steps; UserError unless it is in (0, 1] and runs at least one step."""
    value = arguments.number("strength", given)
    if not 0 < value <= 1:
        raise UserError(f"strength={given} is the fraction of the steps to run; it must be in (0, 1]")
    if not round(value * num_steps):
        raise UserError(f"strength={given} runs none of the {num_steps} steps; pass at least {1 / num_steps:.2g}")
    return value


def conditions(method: Method, labels: Any, count: int, also: Mapping[str, Any] | None = None) -> dict[str, Array]:
    """Return the values of conditions that are passed by the caller or not computed from the images."""
    named = {k: v for k, v in (also or {}).items() if v is not None}
    named = {**({} if labels is None else {"label": labels}), **named}
    columns = [c for c in method.conditions if c.name in named or c.spec(1) is not None]
    return conditioning.from_user(columns, named, count, method.encode)


def _check_shape(name: str, shape: tuple[int, ...], each: tuple[int, ...]) -> None:
    count = "N, " + ", ".join(map(str, each))
    if shape[1:] != each or not shape:
        raise UserError(f"{name} have shape {shape}, but this model takes [{count}]")
    if not shape[0]:
        raise UserError(f"{name} have shape {shape}, so there are none; pass at least one")
