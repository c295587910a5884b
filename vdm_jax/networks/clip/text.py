"""CLIP's text tower: a causal transformer, whose state at the end token is the embedding (Radford et al. 2021, §2.4).

The parameter tree is embedding/{tokens, positions}, transformer/blocks/…, norm_out {scale, bias} and proj/kernel.
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
    """Outputs of the text tower.

    Attributes:
        embedding: Embeddings [B, E] in float32 or float64, not normalized.
        tokens: States of all positions after the last norm, with a mask that is True from the start to the end token.
    """

    embedding: Array
    tokens: Tokens


class TextTower(nn.Module):
    """CLIP's text tower.

    Attributes:
        settings: Settings of the model.
    """

    settings: Settings

    @nn.compact
    def __call__(self, ids: Array, lengths: Array | None = None) -> TextOutput:
        """Embed captions.

        Args:
            ids: Tokens, int [B, L], where L is at most the context.
            lengths: Number of tokens of each caption including its end token, int [B]. If None, the end token is the
                largest id of a row, as in CLIP's vocabulary.
        """
        s = self.settings
        ends = jnp.argmax(ids, axis=1) if lengths is None else lengths - 1
        embedding = TokenEmbedding(s.text.vocabulary, s.text.context, s.text.width, dtype=s.dtype, name="embedding")
        mask = jnp.arange(ids.shape[1])[None] <= ends[:, None]
        h = embedding(ids)
        if s.text.depth:
            h = Transformer(s.transformer_of(s.text), name="transformer")(h)
        else:
            # The positions add a function of the length only, so the mean does not know the order of the tokens.
            h = jnp.broadcast_to(jnp.mean(h, axis=1, where=mask[..., None], keepdims=True), h.shape)
        h = layer_norm(s.epsilon, s.dtype, "norm_out")(h)
        last = jnp.take_along_axis(h, ends[:, None, None], axis=1)[:, 0]
        start = nn.initializers.normal(s.text.width**-0.5)
        projected = Dense(s.embedding, use_bias=False, kernel_init=start, dtype=s.dtype, name="proj")(last)
        return TextOutput(projected.astype(np.promote_types(s.dtype, np.float32)), Tokens(h, mask))
