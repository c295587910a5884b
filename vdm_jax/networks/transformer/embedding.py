"""Tokens and their positions as vectors."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array


class TokenEmbedding(nn.Module):
    """The vector of each token plus the vector of its position; [B, L] → [B, L, width], L ≤ context.

    Attributes:
      vocabulary, context: how many tokens and positions there are.
      padding: whether positions that a mask leaves out get a learned vector of their own instead (GLIDE).
    """

    vocabulary: int
    context: int
    width: int
    padding: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, ids: Array, mask: Array | None = None) -> Array:
        """ids: int [B, L] in [0, vocabulary); mask: bool [B, L], False for padding."""
        length = ids.shape[1]
        if length > self.context:
            raise ValueError(f"{length} tokens are more than the context of {self.context}")
        tokens = self.param("tokens", nn.initializers.normal(0.02), (self.vocabulary, self.width))
        positions = self.param("positions", nn.initializers.normal(0.01), (self.context, self.width))
        x = jnp.take(tokens, ids, axis=0) + positions[None, :length]
        if self.padding:
            padding = self.param("padding", nn.initializers.normal(0.02), (self.context, self.width))
            if mask is not None:
                x = jnp.where(mask[..., None], x, padding[None, :length])
        return x.astype(self.dtype)
