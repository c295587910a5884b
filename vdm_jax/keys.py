"""Random keys: seed → step → phase → purpose → position in the global batch.

A purpose is a number that keys are folded with, so that each use has an independent stream of random numbers. A method
numbers its purposes from 0, and those of conditions start at CONDITIONS.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax import Array

# The first purpose of the conditions.
CONDITIONS = 100


def normal_like(keys: Array, shape: tuple[int, ...], purpose: int) -> Array:
    """Draw standard normal noise [b, *shape]; row k depends only on keys[k] and the purpose."""
    draw = lambda k: jax.random.normal(jax.random.fold_in(k, purpose), shape, jnp.result_type(float))
    return jax.vmap(draw)(keys)


def example_keys(key: Array, index: Array) -> Array:
    """Derive one key for each position index [b] in the global batch, [b]."""
    chex.assert_rank(index, 1)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def fold(keys: Array, purpose: int | Array) -> Array:
    """Fold a purpose into keys [b]."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)
