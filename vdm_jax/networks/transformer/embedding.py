"""Learned embeddings of tokens and positions."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array


class TokenEmbedding(nn.Module):
    """Sum of a learned embedding of each token and a learned embedding of its position.

    Parameter tree: tokens [vocabulary, width], positions [context, width], and padding [context, width] if `padding`.

    Attributes:
        vocabulary: Number of tokens.
        context: Number of positions, which is the length of the longest sequence.
        width: Size of the embeddings.
        padding: Whether padding has a learned embedding for each position instead of the sum (GLIDE).
        dtype: The dtype of the output.
    """

    vocabulary: int
    context: int
    width: int
    padding: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, ids: Array, mask: Array | None = None) -> Array:
        """Embed sequences of tokens.

        Args:
            ids: int [B, L] in [0, vocabulary).
            mask: bool [B, L], False for padding; used only if `padding`.

        Returns:
            [B, L, width].

        Raises:
            ValueError: L is greater than the context.
        """
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
