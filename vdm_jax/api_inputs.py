"""What a notebook passes to a model, checked: one sentence for what cannot be."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.errors import UserError


def images(config: ConfigDict, given: np.ndarray) -> Array:
    """Images [N, …] of the model's shape and levels."""
    shape, levels, given = tuple(config.data.shape), config.data.vocabulary, np.asarray(given)
    if given.shape[1:] != shape:
        raise UserError(f"images of shape {given.shape[1:]} given, the model is for {shape}")
    if levels and given.size and (given.min() < 0 or given.max() >= levels):
        raise UserError(f"images must be levels 0 to {levels - 1}, these go to {given.max()}")
    return jnp.asarray(given)
