"""Attention of several heads, as the backend computes it best or as a plain einsum."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def attend(q: Array, k: Array, v: Array, mask: Array | None = None, causal: bool = False, kind: str = "fused") -> Array:
    """softmax(q kᵀ/√D) v for each head (Vaswani et al. 2017, eq. 1).

    Args:
      q: [B, Q, H, D]; k, v: [B, K, H, D].
      mask: bool [B, K], False for keys that are ignored; each query must be left at least one key.
      causal: query i attends to the keys j ≤ i + K − Q, so that the K − Q keys before the sequence are open to all.
      kind: 'fused' for `jax.nn.dot_product_attention`, which computes logits in float32; 'einsum' otherwise. In
        float64 an einsum is taken in either case.

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
    """bool, broadcastable to [B, H, Q, K]; None if all keys are visible."""
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
