"""Building blocks of a multiscale U-Net: residual blocks, stacks of them at one resolution, and resampling layers.

Blocks with equal shapes at one resolution are one module that is scanned over stacked parameters. The deep DDPM++ of
CIFAR-10, with 8 blocks per resolution, compiles with its gradient in 30 CPU seconds on a CPU, and in 67 seconds when
unrolled (unroll=8). With 3 or 4 blocks per resolution the two take equal time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vdm_jax.networks import initial, resample, sharing
from vdm_jax.networks.conv import Conv
from vdm_jax.networks.families import Settings
from vdm_jax.networks.layers import Attention, Dense, GroupNorm, dropout, fold
from vdm_jax.networks.remat import rematerialized
from vdm_jax.networks.style import AdaptiveNorm
from vdm_jax.networks.tokens import Tokens


def start_of(s: Settings) -> initial.Start:
    """Return the initializers of the settings."""
    return initial.start(s.initial, s.qkv_scale)


def conv(s: Settings, inputs: int, features: int, name: str, **other: Any) -> Conv:
    """Create a 3 × 3 convolution with the initializers of the settings."""
    start = start_of(s)
    common = {"dtype": s.dtype, "kernel_init": start.kernel, "bias_init": start.bias(9 * inputs)}
    return Conv(features, name=name, **{**common, **other})


def last_conv(s: Settings, features: int, name: str, **other: Any) -> Conv:
    """Create the 3 × 3 convolution that ends a residual branch, with output (nearly) 0 at initialization."""
    return Conv(features, name=name, **{"dtype": s.dtype, "kernel_init": start_of(s).last, **other})


def dense(s: Settings, inputs: int, features: int, name: str) -> nn.Dense:
    """Create a dense layer with the initializers of the settings."""
    start = start_of(s)
    return Dense(features, kernel_init=start.kernel, bias_init=start.bias(inputs), dtype=s.dtype, name=name)


def norm(s: Settings, channels: int, name: str, dtype: Any = None) -> GroupNorm:
    """Create a group norm of `channels` channels."""
    return GroupNorm(s.groups_of(channels), dtype=dtype or s.dtype, epsilon=s.epsilon, name=name)


class BlockConditioning(NamedTuple):
    """Inputs that condition all blocks.

    Attributes:
        time: [B, E], the embedding of t and of conditions, after a swish.
        style: [B, S], the style that modulates the norms, or None.
        tokens: the sequence that attention attends to in addition to the pixels, or None.
    """

    time: Array
    style: Array | None = None
    tokens: Tokens | None = None


def adapted_norm(s: Settings, channels: int, name: str, style: Array | None) -> Callable[[Array], Array]:
    """Create a group norm with learned scale and shift, or with scale and shift computed from `style`."""
    if style is None:
        return norm(s, channels, name)
    made = AdaptiveNorm(s.groups_of(channels), s.dtype, s.epsilon, start_of(s).kernel, name=name)
    return lambda x: made(x, style)


def attention(s: Settings, channels: int, name: str) -> Attention:
    """Create self-attention over the pixels of `channels` channels."""
    start = start_of(s)
    return Attention(
        s.heads_of(channels),
        s.groups_of(channels),
        s.dtype,
        s.epsilon,
        1 / math.sqrt(2) if s.rescale else 1.0,
        start.qkv,
        start.last,
        start.bias(channels),
        name=name,
    )


def added(s: Settings, x: Array, h: Array) -> Array:
    """Return x + h, divided by √2 if `s.rescale`."""
    return (x + h) / math.sqrt(2) if s.rescale else x + h


class ResBlock(nn.Module):
    """Residual block: norm, swish, conv, + embedding, norm, swish, dropout, conv.

    Attributes:
        settings: Settings of the network.
        features: Number of output channels.
        resample: 'none', or 'halve' or 'double' to resample both branches after the first swish (BigGAN).
    """

    settings: Settings
    features: int
    resample: str = "none"

    @nn.compact
    def __call__(self, x: Array, cond: BlockConditioning, keys: Array | None) -> Array:
        """Apply the block to x [B, H, W, C] with dropout keys [B] or None; returns [B, H′, W′, features]."""
        s, inputs, features = self.settings, x.shape[-1], self.features
        h = nn.swish(adapted_norm(s, inputs, "norm1", cond.style)(x))
        if self.resample != "none":
            h, x = (_RESAMPLE[self.resample, s.fir](branch) for branch in (h, x))
        h = conv(s, inputs, features, "conv1")(h)

        time = dense(s, cond.time.shape[-1], features * (2 if s.scale_shift else 1), "cond_proj")(cond.time)
        time = time[:, None, None, :]
        normed = adapted_norm(s, features, "norm2", cond.style)
        if s.scale_shift:
            scale, shift = jnp.split(time, 2, axis=-1)
            h = normed(h) * (1 + scale) + shift
        else:
            h = normed(h + time)
        h = dropout(nn.swish(h), s.dropout_rate, keys)
        h = last_conv(s, features, "conv2")(h)
        if inputs != features or (self.resample != "none" and s.between_shortcut):
            x = dense(s, inputs, features, "shortcut")(x)
        return added(s, x, h)


_RESAMPLE = {
    ("halve", False): resample.average,
    ("halve", True): resample.halve,
    ("double", False): resample.nearest,
    ("double", True): resample.double,
}


class Block(nn.Module):
    """One step of the scan over the blocks of a resolution: a ResBlock on (h, skip) and optional attention.

    The carry is h, the scanned inputs are (index of the block, skip or None), and the scanned output is the new h,
    which the decoder uses as a skip connection.
    """

    settings: Settings
    features: int
    attends: bool

    @nn.compact
    def __call__(
        self, h: Array, number: Array | int, skip: Array | None, cond: BlockConditioning, keys: Array | None
    ) -> tuple[Array, Array]:
        s = self.settings
        x = sharing.over_batch(h if skip is None else jnp.concatenate([h, skip], axis=-1))
        h = ResBlock(s, self.features, name="res")(x, cond, fold(keys, number))
        if self.attends:
            h = attention(s, self.features, "attn")(h, cond.tokens)
        return h, h


def _scanned(s: Settings, length: int, with_skip: bool) -> Any:
    return nn.scan(
        rematerialized(Block, s.remat),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, 0 if with_skip else nn.broadcast, nn.broadcast, nn.broadcast),
        length=length,
        unroll=min(s.unroll, length),
    )


class Down(nn.Module):
    """Encoder blocks of one resolution: 'first', which may change the number of channels, and the stacked 'rest'."""

    settings: Settings
    features: int
    attends: bool

    @nn.compact
    def __call__(self, h: Array, cond: BlockConditioning, keys: Array | None) -> tuple[Array, Array]:
        """Map h [B, H, W, C] to ([B, H, W, features], the outputs of all blocks [depth, B, H, W, features])."""
        s, args = self.settings, (self.settings, self.features, self.attends)
        h, _ = rematerialized(Block, s.remat, scanned=False)(*args, name="first")(h, 0, None, cond, keys)
        kept = h[None]
        if s.depth > 1:
            rest = _scanned(s, s.depth - 1, False)(*args, name="rest")
            h, more = rest(h, jnp.arange(1, s.depth), None, cond, keys)
            kept = jnp.concatenate([kept, more])
        return h, kept


class Up(nn.Module):
    """Decoder blocks of one resolution, each on (h, skip).

    'first' receives the output of the coarser resolution, 'rest' is stacked, and the skip of 'last' is the input of
    this resolution in the encoder.
    """

    settings: Settings
    features: int
    attends: bool

    @nn.compact
    def __call__(self, h: Array, skips: Array, entry: Array, cond: BlockConditioning, keys: Array | None) -> Array:
        """Map h [B, H, W, C], skips [depth, B, H, W, features] and entry [B, H, W, C′] to [B, H, W, features]."""
        s = self.settings
        once = s.attention_up == "level"
        args = (s, self.features, self.attends and not once)
        block = partial(rematerialized(Block, s.remat, scanned=False), *args)
        h, _ = block(name="first")(h, 0, skips[-1], cond, keys)
        if s.depth > 1:
            rest = _scanned(s, s.depth - 1, True)(*args, name="rest")
            h, _ = rest(h, jnp.arange(1, s.depth), skips[:-1][::-1], cond, keys)
        h, _ = block(name="last")(h, s.depth, entry, cond, keys)
        return attention(s, self.features, "attn")(h, cond.tokens) if self.attends and once else h


class Between(nn.Module):
    """Downsampling ('halve') or upsampling ('double') to the next resolution with the same number of channels.

    The layer is a convolution 'conv' or a residual block 'res', depending on `settings.resample`.
    """

    settings: Settings
    way: str

    @nn.compact
    def __call__(self, h: Array, cond: BlockConditioning, keys: Array | None) -> Array:
        s, channels = self.settings, h.shape[-1]
        if s.resample == "block":
            block = rematerialized(ResBlock, s.remat, scanned=False)
            return block(s, channels, self.way, name="res")(sharing.over_batch(h), cond, keys)
        if self.way == "halve":
            return conv(s, channels, channels, "conv", stride=2, padding=s.padding)(h)
        return conv(s, channels, channels, "conv")(resample.nearest(h))
