"""What a network is told of an example besides z and t: its label, or none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.methods.base import fold

# The purpose that a key is folded for; methods number theirs from 0.
DROPPED = 100


def dropped(config: ConfigDict, cond: Array, keys: Array) -> Array:
    """Labels [B], each replaced by the null class with probability p_uncond (Ho & Salimans 2022, algorithm 1)."""
    share = config.training.label_dropout
    if not share:
        return cond
    u = jax.vmap(jax.random.uniform)(fold(keys, DROPPED))
    return jnp.where(u < share, jnp.asarray(config.model.num_classes, cond.dtype), cond)
