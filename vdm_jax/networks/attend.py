"""Multi-head attention, by the fused implementation of JAX or by einsums."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def attend(q: Array, k: Array, v: Array, mask: Array | None = None, causal: bool = False, kind: str = "fused") -> Array:
    """Compute softmax(q kᵀ/√D) v for each head (Vaswani et al. 2017, eq. 1). Logits are float32 or float64.

    Args:
        q: Queries [B, Q, H, D].
        k: Keys [B, K, H, D].
        v: Values [B, K, H, D].
        mask: bool [B, K], False for keys that are ignored; None if there are none. Every query needs at least one key.
        causal: Whether query i attends only to the keys j ≤ i + K − Q. If K > Q, the first K − Q keys are a context
            that all queries attend to.
        kind: 'fused' for `jax.nn.dot_product_attention`, or 'einsum'. The two are equal up to rounding. Arrays of
            float64 are always computed by einsums, since the fused implementation has float32 logits.

    Returns:
        [B, Q, H, D] in the dtype of v.
    """
    lengths = q.shape[1], k.shape[1]
    if kind == "einsum" or q.dtype == jnp.float64:
        return _einsum(q, k, v, _visible(mask, causal, *lengths))
    if causal and lengths[0] == lengths[1]:
        visible = _visible(mask, False, *lengths)
        return jax.nn.dot_product_attention(q, k, v, mask=visible, is_causal=True)
    return jax.nn.dot_product_attention(q, k, v, mask=_visible(mask, causal, *lengths))


def _visible(mask: Array | None, causal: bool, queries: int, keys: int) -> Array | None:
    """Return which keys a query attends to, bool and broadcastable to [B, H, Q, K]; None for all keys."""
    visible = None if mask is None else mask[:, None, None, :]
    if causal:
        before = np.tril(np.ones((1, 1, queries, keys), bool), keys - queries)
        visible = jnp.asarray(before) if visible is None else visible & before
    return visible


def _einsum(q: Array, k: Array, v: Array, visible: Array | None) -> Array:
    precise = np.promote_types(q.dtype, np.float32)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=precise) / math.sqrt(q.shape[-1])
    weights = jax.nn.softmax(logits, axis=-1, where=visible)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)
