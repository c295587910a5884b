"""Layers that the networks share: embeddings of time, Fourier features, keyed dropout, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vdm_jax.networks.attend import attend
from vdm_jax.networks.sharing import promote_whole
from vdm_jax.networks.tokens import Tokens

Dense = partial(nn.Dense, promote_dtype=promote_whole)


def timestep_embedding(t: Array, features: int) -> Array:
    """[sin(1000 t ω_k), cos(1000 t ω_k)], ω_k = 10⁴^{−k/(n−1)}, k < n = features/2 (DDPM, VDM).

    t: [B] → [B, features]; features even.
    """
    half = features // 2
    frequencies = jnp.exp(-math.log(10_000) / (half - 1) * jnp.arange(half, dtype=t.dtype))
    return waves(1000 * t, frequencies)


def waves(t: Array, frequencies: Array) -> Array:
    """[sin(t ω_k), cos(t ω_k)]; t: [B], frequencies ω: [n] → [B, 2n]."""
    angles = t[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def fourier_features(z: Array, exponents: Sequence[int]) -> Array:
    """sin(2ⁿ π z), cos(2ⁿ π z) for n in exponents (VDM §3.4). [..., C] → [..., 2·C·len(exponents)].

    Order: all sines, then all cosines; within each, the exponents of a channel lie together.
    """
    frequencies = jnp.pi * 2.0 ** jnp.asarray(exponents, z.dtype)
    angles = z[..., None] * frequencies.reshape((1,) * z.ndim + (-1,))
    angles = angles.reshape(*z.shape[:-1], -1)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def damping(sigma: Array, exponents: Sequence[int], channels: int) -> Array:
    """exp(−½ (2ⁿπσ)²) for every column of `fourier_features`: how much of it noise leaves. [B] → [B, 2·C·len].

    E[e^{i2ⁿπz}|x] = e^{i2ⁿπαx} e^{−½(2ⁿπσ)²} for z = α x + σ ε (mip-NeRF's integrated encoding, Barron et
    al. 2021). Where the factor is 0 the feature is white noise, at n = 8 for three quarters of all γ.
    """
    frequencies = jnp.pi * 2.0 ** jnp.asarray(exponents, sigma.dtype)
    factor = jnp.exp(-0.5 * jnp.square(sigma[:, None] * frequencies[None, :]))
    return jnp.tile(factor, (1, 2 * channels))


def dropout(x: Array, rate: float, keys: Array | None) -> Array:
    """Inverted dropout with one key per example; keys: [B] or None (off).

    `nn.Dropout` draws one mask for the batch, so it would change with the number of devices.
    """
    if keys is None or rate == 0:
        return x
    keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def fold(keys: Array | None, data: Array | int) -> Array | None:
    """Keys [B] for one layer or one purpose; None stays None."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, data)


class GroupNorm(nn.Module):
    """y = (x − μ_g)/√(σ_g² + ε) · scale + bias over the pixels and channels of each group g (Wu & He 2018).

    x: [B, …, C]; the function and parameters of `flax.linen.GroupNorm`, statistics in float32.
    """

    groups: int
    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return group_norm(x, scale[None, :], bias[None, :], self.groups, self.epsilon).astype(self.dtype)


def group_norm(x: Array, scale: Array, bias: Array, groups: int, epsilon: float) -> Array:
    """(x − μ_g)/√(σ_g² + ε) · scale + bias, float32 or better. x: [B, …, C]; scale, bias: [B or 1, C].

    Sums over pixels come first and only their [B, C] is regrouped: activations reshaped to
    [B, …, groups, C/groups] have a last axis of a few channels, which a TPU pads to a whole tile and keeps for the
    backward pass.
    """
    batch, channels = x.shape[0], x.shape[-1]
    precise = x.astype(np.promote_types(x.dtype, np.float32))
    pixels = tuple(range(1, x.ndim - 1))

    def of_groups(moment: Array) -> Array:
        means = jnp.mean(moment, pixels).reshape(batch, groups, -1).mean(-1)
        return jnp.repeat(means, channels // groups, axis=-1)

    mean = of_groups(precise)
    variance = jnp.maximum(of_groups(jnp.square(precise)) - jnp.square(mean), 0.0)
    slope = jax.lax.rsqrt(variance + epsilon) * scale
    shape = (batch, *(1,) * len(pixels), channels)
    return precise * slope.reshape(shape) + (bias - mean * slope).reshape(shape)


class Attention(nn.Module):
    """Attention of all pixels to all pixels and to the tokens of conditions, with a residual connection.

    Attributes:
      heads: number of heads, contiguous in the channels of q, k and v.
      groups, epsilon: of the group norm of the pixels; tokens are taken as they are.
      rescale: factor of the sum of input and output.
      qkv_init, bias_init, out_init: initializers; the output projection starts at zero unless out_init is set.
    """

    heads: int = 1
    groups: int = 32
    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-6
    rescale: float = 1.0
    qkv_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    out_init: nn.initializers.Initializer = nn.initializers.zeros
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array, tokens: Tokens | None = None) -> Array:
        """Apply the block.

        Args:
          x: pixels [B, H, W, C].
          tokens: states [B, L, W] and mask [B, L]; their keys and values are projections of their own, `token_k` and
            `token_v`, prepended to those of the pixels (GLIDE, Nichol et al. 2021, §4.1).

        Returns:
          [B, H, W, C].
        """
        batch, height, width, channels = x.shape
        h = GroupNorm(self.groups, dtype=self.dtype, epsilon=self.epsilon, name="norm")(x)
        h = h.reshape(batch, height * width, channels)
        linear = partial(Dense, channels, kernel_init=self.qkv_init, bias_init=self.bias_init, dtype=self.dtype)
        q, k, v = (
            linear(name=name)(h).reshape(batch, height * width, self.heads, channels // self.heads)
            for name in ("q", "k", "v")
        )
        mask = None
        if tokens is not None:
            chex.assert_shape(tokens.states, (batch, None, None))
            chex.assert_shape(tokens.mask, tokens.states.shape[:2])
            length = tokens.states.shape[1]
            token_k, token_v = (
                linear(name=name)(tokens.states).reshape(batch, length, self.heads, channels // self.heads)
                for name in ("token_k", "token_v")
            )
            k, v = jnp.concatenate([token_k, k], axis=1), jnp.concatenate([token_v, v], axis=1)
            mask = jnp.concatenate([tokens.mask, jnp.ones((batch, height * width), bool)], axis=1)
        h = attend(q, k, v, mask, kind="einsum").reshape(batch, height, width, channels)
        h = Dense(channels, kernel_init=self.out_init, dtype=self.dtype, name="proj_out")(h)
        return x + h if self.rescale == 1 else self.rescale * (x + h)
