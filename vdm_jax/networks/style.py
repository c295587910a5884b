"""Mapping network and adaptive group norms, which condition a generator on a latent (StyleGAN, Karras et al. 2019)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vdm_jax.networks.layers import Dense, group_norm

Initializer = nn.initializers.Initializer


class Mapping(nn.Module):
    """Mapping network from the latent w [B, D] to the style [B, width].

    w is divided by its root mean square; `depth` + 1 dense layers follow, each with a swish.
    """

    width: int
    depth: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, latent: Array) -> Array:
        h = latent * jax.lax.rsqrt(jnp.mean(jnp.square(latent), -1, keepdims=True) + 1e-8)
        for layer in range(self.depth + 1):
            h = Dense(self.width, kernel_init=self.kernel_init, dtype=self.dtype, name=f"dense{layer}")(h)
            h = nn.swish(h)
        return h


class AdaptiveNorm(nn.Module):
    """Adaptive group norm γ · norm(x) + β, where [γ | β] is a dense layer of the style.

    It maps x [B, H, W, C] and style [B, S] to [B, H, W, C]. The bias is initialized to 1 for γ and 0 for β.
    """

    groups: int
    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-6
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array, style: Array) -> Array:
        channels = x.shape[-1]
        modulation = Dense(
            2 * channels, kernel_init=self.kernel_init, bias_init=_one_then_zero, dtype=self.dtype, name="style"
        )(style)
        scale, shift = jnp.split(modulation.astype(np.promote_types(modulation.dtype, np.float32)), 2, axis=-1)
        return group_norm(x, scale, shift, self.groups, self.epsilon).astype(self.dtype)


def _one_then_zero(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    half = shape[0] // 2
    return jnp.concatenate([jnp.ones(half, dtype), jnp.zeros(half, dtype)])
