"""Checks of values that are passed to functions in a notebook; a value that is not valid is one sentence."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from vdm_jax.errors import UserError

# What `jax.random.key` takes, and the bounds of config.sampling.seed.
SEEDS = (0, 2**32 - 1)


def whole(name: str, given: Any, low: int, high: int | None = None) -> int:
    """Return an integer within bounds; UserError for another value."""
    try:
        number = None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        number = None
    if number is None or number < low or (high is not None and number > high):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise UserError(f"{name}={_shown(given)} must be an integer {bounds}")
    return number


def number(name: str, given: Any) -> float:
    """Return a finite real number; UserError for an array or another value."""
    array = _array(name, given)
    if array.shape != ():
        raise UserError(f"{name} must be one number, not an array of shape {array.shape}; call once for each of them")
    if array.dtype.kind not in "iuf":
        raise UserError(f"{name}={_shown(given)} must be a number")
    return float(array)


def pixels(name: str, given: Any, vocabulary: int | None) -> np.ndarray:
    """Return pixel values as int32, or as floats for continuous data.

    Args:
        name: The name of the values in messages.
        given: Integers, or floats that are exactly integers, from 0 to vocabulary − 1; finite numbers for continuous
            data.
        vocabulary: The number of values of a pixel; 0 or None for continuous data.

    Raises:
        UserError: The values are of another kind or outside the range.
    """
    array = reals(name, given)
    if not vocabulary:
        return array.astype(np.result_type(array.dtype, np.float32))
    if array.dtype.kind == "f" and not np.array_equal(array, np.round(array)):
        raise UserError(
            f"{name} must be integers from 0 to {vocabulary - 1}, not {array.dtype} from {array.min():g} to "
            f"{array.max():g}; if the values lie in [0, 1], pass np.round(x * {vocabulary - 1}).astype(int)"
        )
    if array.size and (array.min() < 0 or array.max() >= vocabulary):
        raise UserError(
            f"{name} must be integers from 0 to {vocabulary - 1}, not {array.min():g} to {array.max():g}; pass pixels "
            f"of data with config.data.vocabulary={vocabulary}"
        )
    return array.astype(np.int32)


def reals(name: str, given: Any) -> np.ndarray:
    """Return an array of finite real numbers; UserError for other values."""
    array = _array(name, given)
    if array.dtype.kind not in "biuf":
        array = _extended(name, array)
    if not np.all(np.isfinite(array)):
        bad = int(np.sum(~np.isfinite(array)))
        raise UserError(f"{name} must be finite numbers, but {bad} of {array.size} are NaN or infinite")
    return array


def for_each(name: str, given: Any, count: int) -> np.ndarray:
    """Return one finite number for each of `count` samples, float32 [count]; one number is that of all samples.

    Raises UserError for other values.
    """
    array = reals(name, given)
    if array.shape not in ((), (count,)):
        raise UserError(f"{name} must be a finite number or one for each of the {count} samples")
    return np.broadcast_to(array.astype(np.float32), (count,))


def _extended(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array of bfloat16 and the like, whose kind is 'V' in NumPy, as float32."""
    if array.dtype.kind == "V" and array.dtype.names is None:
        try:
            return array.astype(np.float32)
        except (TypeError, ValueError):
            pass
    raise UserError(f"{name} must be numbers, not {array.dtype}")


def _array(name: str, given: Any) -> np.ndarray:
    try:
        return np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise UserError(f"{name} must be an array of numbers, all rows of the same shape") from error


def _shown(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 40 else f"{text[:37]}..."
