"""Attention pooling (Radford et al. 2021, §2.4): the mean of all pixels attends to the pixels and to itself."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vdm_jax.networks.attend import attend
from vdm_jax.networks.layers import Dense


class AttentionPool(nn.Module):
    """Attention pooling: x [B, H, W, C] → [B, features].

    Parameter tree: positions [1 + H · W, C], which are added to the mean of the pixels and to the pixels, row by row;
    dense layers q, k, v and proj_out.

    Attributes:
        features: Number of outputs.
        heads: Number of attention heads; it divides C.
        kernel_init: Initializer of the kernels; that of the positions is N(0, 1/C).
        bias_init: Initializer of the biases.
        dtype: The dtype of the computation and of the output.
        attention: The kind of attention, see `attend`.
    """

    features: int
    heads: int
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: jnp.dtype = jnp.float32
    attention: str = "fused"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, _, _, channels = x.shape
        linear = partial(Dense, kernel_init=self.kernel_init, bias_init=self.bias_init, dtype=self.dtype)
        x = x.reshape(batch, -1, channels)
        x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)
        positions = self.param("positions", nn.initializers.normal(channels**-0.5), x.shape[1:])
        x = x + positions[None].astype(x.dtype)
        q, k, v = (
            linear(channels, name=name)(h).reshape(batch, -1, self.heads, channels // self.heads)
            for name, h in (("q", x[:, :1]), ("k", x), ("v", x))
        )
        h = attend(q, k, v, kind=self.attention).reshape(batch, channels)
        return linear(self.features, name="proj_out")(h)
