"""Coupling network of a normalizing flow: log-scale and shift of half of the values, from the others and an image."""

from __future__ import annotations

from typing import Any, cast

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vdm_jax.fields import Component, Field
from vdm_jax.networks.conv import Conv
from vdm_jax.networks.layers import Dense

COMPONENTS = (
    Component(
        {
            "model.couplings": Field(4, "affine couplings of a dequantizer's flow", low=1, decisive=True),
            "model.coupling_width": Field(32, "channels of a coupling's network", low=1, decisive=True),
            "model.coupling_depth": Field(2, "residual layers of a coupling's network", low=1, decisive=True),
        },
        {"method": ("dequantizer",)},
    ),
)


class Coupling(nn.Module):
    """Log-scale and shift of an affine coupling: kept [B, …], f [B, …] → (log s, t), each [B, …], with |log s| < 2.

    The network has `depth` residual layers of `width` channels, 3 × 3 convolutions on images [B, H, W, C] and dense
    layers on vectors [B, D]. The output is 0 at initialization. The inputs are `kept`, the values in (−1, 1) that the
    coupling does not change, with 0 in place of the others, and f, the image in (−1, 1).
    """

    width: int
    depth: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, kept: Array, f: Array) -> tuple[Array, Array]:
        def layer(h: Array, features: int, name: str, initial: nn.initializers.Initializer) -> Array:
            kind = Conv if h.ndim == 4 else Dense
            return cast(Array, kind(features, dtype=self.dtype, kernel_init=initial, name=name)(h))

        lecun, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
        h = layer(jnp.concatenate([kept, f], axis=-1), self.width, "enter", lecun)
        for i in range(self.depth):
            h = h + layer(nn.swish(h), self.width, f"layer{i}", lecun)
        out = layer(nn.swish(h), 2 * f.shape[-1], "leave", zeros).astype(jnp.float32)
        log_s, t = jnp.split(out, 2, axis=-1)
        return 2 * jnp.tanh(log_s / 2), t
