"""Downsampling and upsampling of images [B, H, W, C] without parameters, with boxes or StyleGAN2's filter [1, 3, 3, 1].

Filters are sums of shifted copies instead of convolutions, so they are cheap and differentiable in forward and reverse
mode on all backends. The padding is zero.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax


def average(x: Array) -> Array:
    """Average every 2 × 2 pixels: [B, H, W, C] → [B, H/2, W/2, C]. H and W must be even."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def area(x: Array, side: int) -> Array:
    """Average blocks of pixels: [B, H, W, C] → [B, side, side, C]. `side` must divide H and W."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, side, height // side, side, width // side, channels).mean((2, 4))


def nearest(x: Array) -> Array:
    """Repeat every pixel in 2 × 2 pixels: [B, H, W, C] → [B, 2H, 2W, C]."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def halve(x: Array) -> Array:
    """Downsample by 2 with the filter: [B, H, W, C] → [B, H/2, W/2, C]. H and W must be even.

    Along both axes, y_i = (x_{2i−1} + 3 x_{2i} + 3 x_{2i+1} + x_{2i+2})/8.
    """
    for axis in (1, 2):
        x = _taps(x, axis, (1, 1), 2)
    return x


def double(x: Array) -> Array:
    """Upsample by 2 with the filter: [B, H, W, C] → [B, 2H, 2W, C].

    Along both axes, y_{2i} = (x_{i−1} + 3 x_i)/4 and y_{2i+1} = (3 x_i + x_{i+1})/4.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        padded = _pad(x, axis, (1, 1))
        before, after = (lax.slice_in_dim(padded, start, start + size, axis=axis) for start in (0, 2))
        pairs = jnp.stack([(before + 3 * x) / 4, (3 * x + after) / 4], axis + 1)
        x = pairs.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return x


def blur(x: Array) -> Array:
    """Blur with the filter: [B, H, W, C] → [B, H + 1, W + 1, C].

    Along both axes, y_i = (x_{i−2} + 3 x_{i−1} + 3 x_i + x_{i+1})/8 for i ≤ H. In StyleGAN2's downsampling, a 3 × 3
    convolution of stride 2 without padding follows.
    """
    for axis in (1, 2):
        x = _taps(x, axis, (2, 2), 1)
    return x


def _pad(x: Array, axis: int, width: tuple[int, int]) -> Array:
    return jnp.pad(x, [width if a == axis else (0, 0) for a in range(x.ndim)])


def _taps(x: Array, axis: int, padding: tuple[int, int], stride: int) -> Array:
    """Apply the filter [1, 3, 3, 1]/8 along one axis after padding, with the given stride."""
    x = _pad(x, axis, padding)
    last = x.shape[axis] - 3
    a, b, c, d = (lax.slice_in_dim(x, start, start + last, stride, axis) for start in range(4))
    return (a + 3 * (b + c) + d) / 8
