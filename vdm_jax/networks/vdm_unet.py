"""The U-Net of Variational Diffusion Models (Kingma et al. 2021, appendix B): no resampling.

    z, sin(2ⁿπz), cos(2ⁿπz) → conv → L encoder blocks → block, attention, block → L + 1 decoder blocks, each on
    (h, skip) → norm, swish, conv → + z

The blocks of each side are one module that is scanned over stacked parameters, so compile time does not depend on
depth. `remat`, `unroll` and `dtype` change neither the parameter tree nor its initial values.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vdm_jax.common_fields import DROPOUT, GROUPS, REMAT, UNROLL
from vdm_jax.fields import Component, Field
from vdm_jax.networks import sharing
from vdm_jax.networks.conv import Conv
from vdm_jax.networks.encoders import Cond, Encoder, Site, inject, without
from vdm_jax.networks.initial import Initial, original
from vdm_jax.networks.layers import (
    Attention,
    Dense,
    GroupNorm,
    damping,
    dropout,
    fold,
    fourier_features,
    timestep_embedding,
)
from vdm_jax.networks.remat import rematerialized

COMPONENTS = (
    Component(
        {
            "model.depth": Field(4, "blocks L on each side", low=1, decisive=True),
            "model.fourier": Field(
                (7.0, 8.0),
                "exponents n of the features sin, cos(2^n pi z); () for none",
                low=0,
                high=16,
                decisive=True,
            ),
            "model.fourier_damping": Field(
                False, "multiply the Fourier features by exp(-(2^n pi sigma)^2/2)", decisive=True
            ),
            "model.attention": Field(False, "attention after every block, not only in the middle", decisive=True),
            "model.dropout": DROPOUT,
            "model.groups": GROUPS,
            "model.initial": Field("original", "kernel initializers", ("original", "structured"), decisive=True),
            "model.remat": REMAT,
            "model.unroll": UNROLL,
        },
        {"model.network": ("unet",)},
    ),
)


class ResBlock(nn.Module):
    """Residual block: norm, swish, conv, + projection of the conditioning, norm, swish, dropout, conv."""

    features: int
    dropout_rate: float = 0.0
    groups: int = 32
    dtype: jnp.dtype = jnp.float32
    initial: Initial = original()

    @nn.compact
    def __call__(self, x: Array, cond: Array, keys: Array | None) -> Array:
        """Map x [B, H, W, C], cond [B, E] and dropout keys [B] or None to [B, H, W, features]."""
        start = self.initial
        h = nn.swish(GroupNorm(self.groups, dtype=self.dtype, name="norm1")(x))
        h = Conv(self.features, dtype=self.dtype, name="conv1")(h)
        project = Dense(self.features, use_bias=False, kernel_init=start.cond_proj, dtype=self.dtype, name="cond_proj")
        h = h + project(cond)[:, None, None, :]
        h = nn.swish(GroupNorm(self.groups, dtype=self.dtype, name="norm2")(h))
        h = dropout(h, self.dropout_rate, keys)
        h = Conv(self.features, kernel_init=start.conv2, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = Dense(self.features, kernel_init=start.shortcut, dtype=self.dtype, name="shortcut")(x)
        return x + h


class Block(nn.Module):
    """One step of the scan over depth: a ResBlock on (h, skip) and optional attention.

    The carry is h, the scanned inputs are (index of the layer, skip or None), and the scanned output is the new h,
    which the decoder uses as a skip connection.
    """

    features: int
    dropout_rate: float
    attention: bool
    groups: int
    dtype: jnp.dtype
    initial: Initial

    @nn.compact
    def __call__(
        self, h: Array, layer: Array, skip: Array | None, cond: Array, keys: Array | None
    ) -> tuple[Array, Array]:
        x = sharing.over_batch(h if skip is None else jnp.concatenate([h, skip], axis=-1))
        block = ResBlock(self.features, self.dropout_rate, self.groups, self.dtype, self.initial, name="res")
        h = block(x, cond, fold(keys, layer))
        if self.attention:
            h = Attention(groups=self.groups, dtype=self.dtype, name="attn")(h)
        return h, h


class VDMUNet(nn.Module):
    """U-Net of VDM, ε̂(z_t, t): z [B, H, W, C] float32, t [B] in [0, 1], cond → [B, H, W, C].

    z, its Fourier features and the residual at the output are float32; everything else computes in `dtype`. If no
    encoder returns features, a column of zeros is concatenated with the embedding of t instead.

    Attributes:
        width: Channels n of all blocks.
        depth: Blocks L on each side.
        fourier: Exponents n of the Fourier features; () for none.
        attention: True for attention after every block instead of only in the middle.
        dropout_rate: Rate of dropout in every block.
        groups: Groups of the group norms.
        dtype: Dtype of the computation.
        remat: Rematerialization policy; see `rematerialized`.
        unroll: Blocks per iteration of the loop over blocks.
        initial: Initializers of the kernels.
        residual: True to add z to the output, which is 0 at initialization without it.
        damped: True to multiply the Fourier features by exp(−½(2ⁿπσ)²), the factor by which noise of standard
            deviation σ [B] reduces their mean. sigma=None means σ = 0, for initialization.
        encoders: Encoders of conditions; see `encoders`.
    """

    width: int
    depth: int
    fourier: tuple[int, ...] = (7, 8)
    attention: bool = False
    dropout_rate: float = 0.0
    groups: int = 32
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"
    unroll: int = 1
    initial: Initial = original()
    residual: bool = True
    damped: bool = False
    encoders: tuple[Encoder, ...] = ()

    def _blocks(self, length: int, name: str, with_skip: bool) -> nn.Module:
        block = rematerialized(Block, self.remat)
        scanned = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0 if with_skip else nn.broadcast, nn.broadcast, nn.broadcast),
            length=length,
            unroll=min(self.unroll, length),
        )
        return scanned(self.width, self.dropout_rate, self.attention, self.groups, self.dtype, self.initial, name=name)

    def _features(self, z: Array, sigma: Array | None) -> Array:
        features = fourier_features(z, self.fourier)
        if not self.damped or sigma is None:
            return features
        return features * damping(sigma, self.fourier, z.shape[-1])[:, None, None, :]

    @nn.compact
    def __call__(self, z: Array, t: Array, cond: Cond, keys: Array | None = None, sigma: Array | None = None) -> Array:
        n, dtype = self.width, self.dtype
        site = Site(z, 4 * n, nn.initializers.zeros, dtype=dtype)
        injected = without(inject(self.encoders, cond, site), "VDM's U-Net", "channels", "style", "tokens")
        features = jnp.zeros_like(t)[:, None] if injected.features is None else injected.features
        time = jnp.concatenate([timestep_embedding(t, n), features], axis=-1)
        time = nn.swish(Dense(4 * n, kernel_init=self.initial.dense0, dtype=dtype, name="dense0")(time))
        time = Dense(4 * n, dtype=dtype, name="dense1")(time)
        if injected.embedding is not None:
            time = time + injected.embedding.astype(time.dtype)
        time = nn.swish(time)

        h = jnp.concatenate([z, self._features(z, sigma)], axis=-1) if self.fourier else z
        h = Conv(n, kernel_init=self.initial.conv_in, dtype=dtype, name="conv_in")(h)
        first = h

        layers = jnp.arange(self.depth)
        h, skips = self._blocks(self.depth, "down", False)(h, layers, None, time, fold(keys, 0))

        middle = lambda name: ResBlock(n, self.dropout_rate, self.groups, dtype, self.initial, name=name)
        h = middle("mid1")(h, time, fold(keys, 1))
        h = Attention(groups=self.groups, dtype=dtype, name="mid_attn")(h)
        h = middle("mid2")(h, time, fold(keys, 2))

        skips = jnp.concatenate([first[None], skips])[::-1]
        layers = jnp.arange(self.depth + 1)
        h, _ = self._blocks(self.depth + 1, "up", True)(h, layers, skips, time, fold(keys, 3))

        h = nn.swish(GroupNorm(self.groups, dtype=dtype, name="norm_out")(h))
        zeros = nn.initializers.zeros
        h = Conv(z.shape[-1], kernel_init=zeros, dtype=dtype, name="conv_out")(h)
        return z + h.astype(z.dtype) if self.residual else h.astype(z.dtype)
