"""The text tower: a causal transformer, read where the text ends.

Parameter tree: embedding/{tokens, positions}, transformer/blocks/…, norm_out {scale, bias}, proj/kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from vdm_jax.networks.clip.settings import Settings
from vdm_jax.networks.layers import Dense
from vdm_jax.networks.tokens import Tokens
from vdm_jax.networks.transformer import TokenEmbedding, Transformer, layer_norm


class TextOutput(NamedTuple):
    """embedding: [B, E] in float32 or better, not normalized. tokens: the states of all positions behind the last norm
    and which of them are text, from the start token to the end token."""

    embedding: Array
    tokens: Tokens


class TextTower(nn.Module):
    settings: Settings

    @nn.compact
    def __call__(self, ids: Array, lengths: Array | None = None) -> TextOutput:
        """Encode captions.

        Args:
          ids: int [B, L], L ≤ context.
          lengths: int [B], tokens of each text with its end token. None: the end token is the largest id of a row, as
            it is in CLIP's vocabulary.
        """
        s = self.settings
        ends = jnp.argmax(ids, axis=1) if lengths is None else lengths - 1
        embedding = TokenEmbedding(s.text.vocabulary, s.text.context, s.text.width, dtype=s.dtype, name="embedding")
        h = Transformer(s.transformer_of(s.text), name="transformer")(embedding(ids))
        h = layer_norm(s.epsilon, s.dtype, "norm_out")(h)
        last = jnp.take_along_axis(h, ends[:, None, None], axis=1)[:, 0]
        start = nn.initializers.normal(s.text.width**-0.5)
        projected = Dense(s.embedding, use_bias=False, kernel_init=start, dtype=s.dtype, name="proj")(last)
        mask = jnp.arange(ids.shape[1])[None] <= ends[:, None]
        return TextOutput(projected.astype(np.promote_types(s.dtype, np.float32)), Tokens(h, mask))
