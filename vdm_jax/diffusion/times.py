"""Samplers of t ∈ [0, 1) and of the noise levels of a table.

Positions refer to the global batch, so that every sharding of it draws the same times.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


def stratified(u: Array, index: Array, total: int) -> Array:
    """Return t_i = (u + i/total) mod 1 with one u for the global batch (VDM, appendix I.1).

    Each t_i is uniform, and all of them together cover [0, 1) evenly. Positions are integers, because a float arange
    has the wrong length for 154 of the sizes up to 2048.

    Args:
        u: Uniform noise, a scalar.
        index: Positions in the global batch, int [b].
        total: Size of the global batch.
    """
    return jnp.mod(u + index.astype(jnp.float32) / total, 1.0)


def independent(keys: Array) -> Array:
    """Sample one uniform t per example; keys: [b]."""
    return jax.vmap(jax.random.uniform)(keys)


def to_grid(t: Array, num_timesteps: int) -> Array:
    """Round continuous t up to i/T with i = ⌈t T⌉ ∈ {1, …, T} (VDM, appendix F)."""
    return jnp.clip(jnp.ceil(t * num_timesteps), 1, num_timesteps) / num_timesteps


def to_level(t: Array, num_levels: int) -> Array:
    """Convert t ∈ [0, 1) to the index ⌊t T⌋ ∈ {0, …, T − 1} of a table's level; rounding never gives T."""
    return jnp.minimum(jnp.floor(t * num_levels), num_levels - 1).astype(jnp.int32)


class History(NamedTuple):
    """The last H losses of every noise level, for importance sampling.

    Attributes:
        losses: [T, H], oldest first.
        counts: Number of losses recorded for each level, int [T], at most H.
    """

    losses: Array
    counts: Array


# Fraction of the probability that stays uniform.
UNIFORM = 0.001


def no_history(num_levels: int, length: int = 10) -> History:
    """Initialize an empty loss history with H = length."""
    return History(jnp.zeros((num_levels, length)), jnp.zeros(num_levels, jnp.int32))


def importance(history: History) -> Array:
    """Return p_ℓ ∝ √E[L_ℓ²] over the last losses, [T], mixed with a fraction .001 of the uniform distribution.

    p is uniform until every level has H losses, or if all losses are 0. It minimizes the variance of L_ℓ/p_ℓ (Nichol &
    Dhariwal 2021, eq. 18).
    """
    num_levels, length = history.losses.shape
    root = jnp.sqrt(jnp.mean(jnp.square(history.losses), axis=-1))
    total = jnp.sum(root)
    mixed = (1 - UNIFORM) * root / total + UNIFORM / num_levels
    return jnp.where(jnp.all(history.counts == length) & (total > 0), mixed, 1 / num_levels)


def remember(history: History, index: Array, losses: Array) -> History:
    """Append losses [n] of the levels index [n] to the history in order, dropping the oldest losses."""
    length = history.losses.shape[1]

    def add(now: History, new: tuple[Array, Array]) -> tuple[History, None]:
        level, loss = new
        row, count = now.losses[level], now.counts[level]
        full = jnp.concatenate([row[1:], loss[None]])
        row = jnp.where(count == length, full, row.at[jnp.minimum(count, length - 1)].set(loss))
        return History(now.losses.at[level].set(row), now.counts.at[level].set(jnp.minimum(count + 1, length))), None

    return lax.scan(add, history, (index, losses))[0]


def draw_levels(keys: Array, probabilities: Array) -> Array:
    """Sample one level index per example, int [b] in 0 … T − 1, with probabilities [T]; keys: [b]."""
    edges = jnp.cumsum(probabilities)
    u = jax.vmap(jax.random.uniform)(keys) * edges[-1]
    return jnp.minimum(jnp.searchsorted(edges, u, side="right"), len(probabilities) - 1).astype(jnp.int32)
