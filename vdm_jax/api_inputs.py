"""Checks of the arrays that a notebook passes to a model."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.errors import UserError


def images(config: ConfigDict, given: np.ndarray) -> Array:
    """Return images [N, …] as an array; UserError unless they have the model's shape and range of values."""
    shape, levels, given = tuple(config.data.shape), config.data.vocabulary, np.asarray(given)
    if given.shape[1:] != shape:
        raise UserError(f"the images have shape {given.shape[1:]}, and the model is for {shape}")
    if levels and given.size and (given.min() < 0 or given.max() >= levels):
        raise UserError(f"images must have values from 0 to {levels - 1}, and these go up to {given.max()}")
    return jnp.asarray(given)
