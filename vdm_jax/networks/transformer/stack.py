"""The blocks of a pre-norm transformer. They are scanned, so the compilation time does not depend on the depth.

In the parameter tree, blocks/ has leaves whose first axis is the depth:

    norm1, norm2 {scale, bias}        layer norms
    attn/{q, k, v, proj_out}          dense layers; the heads are contiguous in the outputs of q, k and v
    attn/{token_k, token_v}           dense layers for the keys and values of a context, if there is one
    fc1, fc2                          dense layers with 4 · width hidden units
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vdm_jax.networks import sharing
from vdm_jax.networks.attend import attend
from vdm_jax.networks.layers import Dense
from vdm_jax.networks.remat import rematerialized
from vdm_jax.networks.tokens import Tokens
from vdm_jax.networks.transformer.settings import GELUS, Settings


def layer_norm(epsilon: float, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """Create a layer norm. It computes the mean and then the variance, both in float32 or float64."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


class SelfAttention(nn.Module):
    """Attention of a sequence to itself and to a context, with the initializers of CLIP's text tower.

    Attributes:
        settings: Settings of the transformer.
    """

    settings: Settings

    @nn.compact
    def __call__(self, x: Array, mask: Array | None, context: Tokens | None) -> Array:
        """Map x [B, L, W] to [B, L, W]; the arguments are those of `Transformer`."""
        s, (batch, length, width) = self.settings, x.shape
        inside, outside = nn.initializers.normal(width**-0.5), nn.initializers.normal((2 * s.depth * width) ** -0.5)
        linear = partial(Dense, width, dtype=s.dtype)
        by_head = lambda h: h.reshape(batch, -1, s.heads, width // s.heads)
        q, k, v = (
            by_head(linear(kernel_init=inside, use_bias=s.key_bias or name != "k", name=name)(x))
            for name in ("q", "k", "v")
        )
        if context is not None:
            states = context.states.astype(s.dtype)
            token_k, token_v = (by_head(linear(kernel_init=inside, name=n)(states)) for n in ("token_k", "token_v"))
            k, v = jnp.concatenate([token_k, k], axis=1), jnp.concatenate([token_v, v], axis=1)
            own = jnp.ones((batch, length), bool) if mask is None else mask
            mask = jnp.concatenate([context.mask, own], axis=1)
        h = attend(q, k, v, mask, s.causal, s.attention).reshape(batch, length, width)
        return linear(kernel_init=outside, name="proj_out")(h)


class Block(nn.Module):
    """Transformer block: x ← x + attention(norm(x)), then x ← x + mlp(norm(x)).

    It is one step of the scan over the depth, whose carry is x. It has no scanned outputs.

    Attributes:
        settings: Settings of the transformer.
    """

    settings: Settings

    @nn.compact
    def __call__(self, x: Array, mask: Array | None, context: Tokens | None) -> tuple[Array, None]:
        s, width = self.settings, x.shape[-1]
        x = sharing.over_batch(x)
        h = layer_norm(s.epsilon, s.dtype, "norm1")(x)
        x = x + SelfAttention(s, name="attn")(h, mask, context)
        h = layer_norm(s.epsilon, s.dtype, "norm2")(x)
        wide, narrow = (
            nn.initializers.normal((2 * width) ** -0.5),
            nn.initializers.normal((2 * s.depth * width) ** -0.5),
        )
        h = GELUS[s.gelu](Dense(4 * width, kernel_init=wide, dtype=s.dtype, name="fc1")(h))
        return x + Dense(width, kernel_init=narrow, dtype=s.dtype, name="fc2")(h), None


class Transformer(nn.Module):
    """All blocks of a transformer, without a norm before the first or after the last one.

    Attributes:
        settings: Settings of the transformer.
    """

    settings: Settings

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, context: Tokens | None = None) -> Array:
        """Apply the blocks.

        Args:
            x: States [B, L, W], where W is the width of the settings.
            mask: bool [B, L], False where keys are ignored (padding); None if there are none. The output at these
                positions has no meaning.
            context: A sequence of another width that every position attends to, also in a causal transformer, or None.
                Each block projects it to keys and values, which are prepended to those of x (GLIDE, Nichol et al. 2021,
                §4.1).

        Returns:
            States [B, L, W] in the dtype of the settings.
        """
        s = self.settings
        blocks = nn.scan(
            rematerialized(Block, s.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=s.depth,
            unroll=min(s.unroll, s.depth),
        )
        x, _ = blocks(s, name="blocks")(x.astype(s.dtype), mask, context)
        return x
