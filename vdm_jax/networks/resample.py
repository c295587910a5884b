"""Halving and doubling of images without parameters: pixels, or the filter [1, 3, 3, 1] of StyleGAN2.

All take [B, H, W, C]. Filters are sums of shifted copies, not convolutions, so they are cheap and
differentiable in both modes everywhere. Outside the image is zero.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax


def average(x: Array) -> Array:
    """The mean of each 2 × 2 pixels. [B, H, W, C] → [B, H/2, W/2, C]; H and W even."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def area(x: Array, side: int) -> Array:
    """The mean of each block of pixels. [B, H, W, C] → [B, side, side, C]; side divides H and W."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, side, height // side, side, width // side, channels).mean((2, 4))


def nearest(x: Array) -> Array:
    """Each pixel four times. [B, H, W, C] → [B, 2H, 2W, C]."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def halve(x: Array) -> Array:
    """y_i = (x_{2i−1} + 3 x_{2i} + 3 x_{2i+1} + x_{2i+2})/8 along both sides; H and W even."""
    for axis in (1, 2):
        x = _taps(x, axis, (1, 1), 2)
    return x


def double(x: Array) -> Array:
    """y_{2i} = (x_{i−1} + 3 x_i)/4, y_{2i+1} = (3 x_i + x_{i+1})/4 along both sides."""
    for axis in (1, 2):
        size = x.shape[axis]
        padded = _pad(x, axis, (1, 1))
        before, after = (lax.slice_in_dim(padded, start, start + size, axis=axis) for start in (0, 2))
        pairs = jnp.stack([(before + 3 * x) / 4, (3 * x + after) / 4], axis + 1)
        x = pairs.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return x


def blur(x: Array) -> Array:
    """y_i = (x_{i−2} + 3 x_{i−1} + 3 x_i + x_{i+1})/8, i ≤ H, along both sides: [B, H + 1, W + 1, C].

    A 3 × 3 convolution of stride 2 without padding follows it: StyleGAN2's halving by convolution.
    """
    for axis in (1, 2):
        x = _taps(x, axis, (2, 2), 1)
    return x


def _pad(x: Array, axis: int, width: tuple[int, int]) -> Array:
    return jnp.pad(x, [width if a == axis else (0, 0) for a in range(x.ndim)])


def _taps(x: Array, axis: int, padding: tuple[int, int], stride: int) -> Array:
    """[1, 3, 3, 1]/8 along one axis, after padding, at every `stride`-th place."""
    x = _pad(x, axis, padding)
    last = x.shape[axis] - 3
    a, b, c, d = (lax.slice_in_dim(x, start, start + last, stride, axis) for start in range(4))
    return (a + 3 * (b + c) + d) / 8
