"""Samplers of t ∈ [0, 1). Positions are places in the global batch, so that any split of it agrees."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def stratified(u: Array, index: Array, total: int) -> Array:
    """t_i = (u + i/total) mod 1 with one u for the whole batch (VDM, appendix I.1).

    u: scalar uniform; index: int [b], places in the global batch of `total`. Each t_i is uniform, and
    the total of them covers [0, 1) evenly. Integer positions: a float arange has the wrong length for
    154 of the sizes up to 2048.
    """
    return jnp.mod(u + index.astype(jnp.float32) / total, 1.0)


def independent(keys: Array) -> Array:
    """One uniform t per example; keys: [b]."""
    return jax.vmap(jax.random.uniform)(keys)


def to_grid(t: Array, num_timesteps: int) -> Array:
    """Continuous t → i/T with i = ⌈t T⌉ ∈ {1, …, T} (VDM, appendix F)."""
    return jnp.clip(jnp.ceil(t * num_timesteps), 1, num_timesteps) / num_timesteps
