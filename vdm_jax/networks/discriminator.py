"""Time-dependent discriminators D(z_s, z_t, t) → logits (Xiao, Kreis & Vahdat 2022).

    [z_s | z_t] → conv_in → blocks, most with downsampling → [h | standard deviation of a group] → conv_out → Σ pixels
      → dense_out

Parameter tree: dense0, dense1 of the embedding of t; conv_in (a dense layer); block{i}: conv1, cond_proj, conv2,
shortcut {kernel}; conv_out, dense_out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vdm_jax.fields import Component, Field
from vdm_jax.networks import resample
from vdm_jax.networks.conv import Conv
from vdm_jax.networks.encoder import frequencies
from vdm_jax.networks.generator import SLOPE, Perceptron
from vdm_jax.networks.initial import start
from vdm_jax.networks.layers import Dense, waves

COMPONENTS = (
    Component(
        {
            "model.discriminator": Field(
                "small",
                "discriminator of images up to 64 pixels, or of larger ones",
                ("small", "large"),
                decisive=True,
            ),
            "model.discriminator_width": Field(
                64, "base width n of the discriminator, which has 2 n to 8 n channels", low=1, decisive=True
            ),
            "model.discriminator_time": Field(256, "units of the discriminator's embedding of t", low=4, decisive=True),
        },
        {"method": ("ddgan",), "model.network": ("multiscale",)},
    ),
)

GROUP = 4  # examples per minibatch standard deviation


class Rows(NamedTuple):
    """Positions of the local examples in the batch over which D computes its minibatch standard deviation.

    Attributes:
        index: int [b], ascending positions.
        gather: Function [b, …] → all examples, in the order of their positions.
    """

    index: Array  # type: ignore[assignment]  # hides tuple.index
    gather: Callable[[Array], Array]


def all_rows(count: int) -> Rows:
    """Return the rows of a batch of `count` examples that is not split over devices by hand."""
    return Rows(jnp.arange(count), lambda a: a)


def minibatch_deviation(h: Array, rows: Rows) -> Array:
    """Compute √(variance over a group + 1e-8), averaged over pixels and channels (Karras et al. 2018).

    In a batch of n examples with groups of 4, the examples k, k + n/4, k + n/2 and k + 3n/4 are one group. The groups
    do not depend on how the batch is split: over devices by `rows`, or over microbatches of every p-th row if p divides
    n/4, because each group is then part of a single microbatch.

    Args:
        h: [b, H, W, C].
        rows: Positions of the b examples in the global batch.

    Returns:
        [b].
    """
    gathered = rows.gather(h.astype(np.promote_types(h.dtype, np.float32)))
    group = min(GROUP, len(gathered))
    grouped = gathered.reshape(group, -1, *gathered.shape[1:])
    deviation = jnp.sqrt(jnp.var(grouped, axis=0) + 1e-8).mean((1, 2, 3))
    place = jnp.searchsorted(rows.gather(rows.index), rows.index)
    return jnp.take(jnp.tile(deviation, group), place)


@dataclasses.dataclass(frozen=True)
class Size:
    """Architecture of a discriminator for images of one size.

    Attributes:
        features: Output channels of every block, as multiples of the width.
        halves: True for every block that downsamples.
        silent: True if conv_out is initialized to nearly 0.
    """

    features: tuple[int, ...]
    halves: tuple[bool, ...]
    silent: bool

    @property
    def factor(self) -> int:
        """The divisor that the height and width of an image must have."""
        return 2 ** sum(self.halves)


SIZES = {
    "small": Size((2, 4, 8, 8), (False, True, True, True), True),  # up to 64 pixels
    "large": Size((4, 8, 8, 8, 8, 8), (True,) * 6, False),  # 256
}


class Discriminator(nn.Module):
    """Discriminator of images: z_s [B, H, W, C], z_t [B, H, W, C] or None, t [B] → logits [B].

    The time input t is that of the generator. With z_t=None the discriminator classifies z_s alone.

    Attributes:
        size: Key of SIZES.
        width: Base width n; the blocks have multiples of it.
        time_width: Units of the embedding of t.
        dtype: Dtype of the computation.
    """

    size: str
    width: int = 64
    time_width: int = 256
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z_s: Array, z_t: Array | None, t: Array, rows: Rows | None = None) -> Array:
        size, layer = SIZES[self.size], _layers(self.dtype)
        time = waves(t, jnp.asarray(frequencies("ddpm", self.time_width)))
        time = _leaky(layer.dense(self.time_width, "dense0")(time))
        time = _leaky(layer.dense(self.time_width, "dense1")(time))

        h = z_s if z_t is None else jnp.concatenate([z_s, z_t], axis=-1)
        h = layer.dense(2 * self.width, "conv_in")(h)
        for i, (multiple, halves) in enumerate(zip(size.features, size.halves, strict=True)):
            h = DownBlock(multiple * self.width, halves, self.dtype, name=f"block{i}")(h, time)

        deviation = minibatch_deviation(h, all_rows(len(h)) if rows is None else rows)
        spread = jnp.broadcast_to(deviation[:, None, None, None], (*h.shape[:3], 1)).astype(h.dtype)
        h = jnp.concatenate([h, spread], axis=-1)
        last = layer.silent_conv if size.silent else layer.conv
        h = _leaky(last(size.features[-1] * self.width, "conv_out")(h))
        summed = jnp.sum(h.astype(z_s.dtype), axis=(1, 2))
        return _layers(z_s.dtype).dense(1, "dense_out")(summed)[:, 0]


class DownBlock(nn.Module):
    """Residual block: leaky ReLU, conv, + embedding, leaky ReLU, {downsampling}, conv; the sum is divided by √2.

    The shortcut is {downsampling} and a 1 × 1 convolution.
    """

    features: int
    halves: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, time: Array) -> Array:
        layer = _layers(self.dtype)
        h = layer.conv(self.features, "conv1")(_leaky(x))
        h = _leaky(h + layer.dense(self.features, "cond_proj")(time)[:, None, None, :])
        if self.halves:
            h, x = resample.halve(h), resample.halve(x)
        h = layer.silent_conv(self.features, "conv2")(h)
        x = layer.dense(self.features, "shortcut", use_bias=False)(x)
        return (h + x) / math.sqrt(2)


class MLPDiscriminator(nn.Module):
    """Discriminator of vectors: z_s [B, D], z_t [B, D] or None, t [B] in [0, 1] → logits [B].

    The network is a perceptron of [z_s | z_t | sinusoids of t]. The logits of an example do not depend on the others.
    """

    width: int
    depth: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z_s: Array, z_t: Array | None, t: Array, rows: Rows | None = None) -> Array:
        inputs = z_s if z_t is None else jnp.concatenate([z_s, z_t], axis=-1)
        return Perceptron(self.width, self.depth, 1, self.dtype, name="layers")(inputs, t)[:, 0]


class _Layers(NamedTuple):
    dense: Any
    conv: Any
    silent_conv: Any


def _layers(dtype: Any) -> _Layers:
    """Return layers with DDPM's initializers; `silent_conv` is initialized to nearly 0."""
    begin = start("ddpm", 1.0)

    def dense(features: int, name: str, use_bias: bool = True) -> nn.Dense:
        return Dense(features, use_bias, kernel_init=begin.kernel, dtype=dtype, name=name)

    def conv(features: int, name: str, kernel_init: Any = begin.kernel) -> Conv:
        return Conv(features, kernel_init=kernel_init, dtype=dtype, name=name)

    return _Layers(dense, conv, lambda features, name: conv(features, name, begin.last))


def _leaky(x: Array) -> Array:
    return jax.nn.leaky_relu(x, SLOPE)
