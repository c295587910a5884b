"""Random keys: seed → step → phase → purpose → position in the global batch.

A method numbers the purposes of its own keys from 0, without collisions; those of the conditions start at CONDITIONS.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

# The first purpose of the conditions; `conditioning` numbers them from here.
CONDITIONS = 100


def normal_like(keys: Array, shape: tuple[int, ...], purpose: int) -> Array:
    """Standard normal [b, *shape]; row k depends on keys[k] and the purpose alone."""
    draw = lambda k: jax.random.normal(jax.random.fold_in(k, purpose), shape, jnp.result_type(float))
    return jax.vmap(draw)(keys)


def example_keys(key: Array, index: Array) -> Array:
    """One key per position in the global batch: [b]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def fold(keys: Array, purpose: int | Array) -> Array:
    """Keys [b] for one purpose."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)
