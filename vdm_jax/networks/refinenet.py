"""NCSN's score network (Song & Ermon 2019, appendix A): a RefineNet with norms conditioned on the noise level.

    z → begin → stage1, stage2 (downsamples), stage3 (dilation 2), stage4 (dilation 4)   all after stage1 at half size
      → refine1(s4) → refine2(s3, ·) → refine3(s2, ·) → refine4(s1, ·) → norm, ELU → end

The image is downsampled only once; later stages use dilated convolutions instead. A refine block applies residual units
to every input, sums the results at the finer resolution, adds two poolings of the sum, and ends with residual units.
The structure and the order of operations are those of the authors' code.
"""

from __future__ import annotations

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vdm_jax.networks.encoders import Cond
from vdm_jax.networks.initial import start
from vdm_jax.networks.sharing import promote_whole

EPSILON = 1e-5
_INITIAL = start("torch", 1.0)


def instance_norm_plus(h: Array, gamma: Array, alpha: Array, beta: Array) -> Array:
    """Compute γ (h′ + α μ′) + β for h [B, H, W, C] and coefficients [B, C].

    h′ = (h − μ)/√(s² + ε), with the mean μ and variance s² of every channel over its pixels. This removes the
    differences of μ between channels, so μ′ = (μ − m)/√(v + ε) restores them, with the mean m and unbiased variance v
    of μ over the channels.
    """
    spread = lambda a: a[:, None, None, :]
    mu, variance = jnp.mean(h, (1, 2)), jnp.var(h, (1, 2))
    m, v = jnp.mean(mu, -1, keepdims=True), jnp.var(mu, -1, keepdims=True, ddof=1)
    centered = (mu - m) / jnp.sqrt(v + EPSILON)
    scaled = (h - spread(mu)) / jnp.sqrt(spread(variance) + EPSILON)
    return spread(gamma) * (scaled + spread(alpha * centered)) + spread(beta)


class Norm(nn.Module):
    """Conditional instance normalization++ of h [B, H, W, C] at noise level `level` (int [B]).

    The parameter `embedding` [levels, 3 C] contains γ, α and β of each noise level.
    """

    levels: int

    @nn.compact
    def __call__(self, h: Array, level: Array) -> Array:
        channels = h.shape[-1]

        def begin(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
            ones = 1 + 0.02 * jax.random.normal(key, (shape[0], 2 * channels), dtype)
            return jnp.concatenate([ones, jnp.zeros((shape[0], channels), dtype)], axis=1)

        table = self.param("embedding", begin, (self.levels, 3 * channels))
        gamma, alpha, beta = jnp.split(table[level], 3, axis=-1)
        return instance_norm_plus(h.astype(jnp.float32), gamma, alpha, beta).astype(h.dtype)


def _conv(name: str, h: Array, features: int, *, dilation: int = 1, size: int = 3, bias: bool = True) -> Array:
    """Apply a `size` × `size` convolution that keeps the resolution, as a submodule of the calling module."""
    layer = nn.Conv(
        features,
        (size, size),
        padding=dilation * (size // 2),
        kernel_dilation=dilation,
        use_bias=bias,
        dtype=h.dtype,
        kernel_init=_INITIAL.kernel,
        bias_init=_INITIAL.bias(size * size * h.shape[-1]),
        promote_dtype=promote_whole,
        name=name,
    )
    return cast(Array, layer(h))


def _halved(h: Array) -> Array:
    """Average every 2 × 2 pixels."""
    return _pooled(h, 2, 2, 0)


def _pooled(h: Array, size: int, stride: int, padding: int) -> Array:
    """Average size × size pixels, padded by zeros, which count."""
    with jax.numpy_dtype_promotion("standard"):  # Flax divides by the integer number of pixels
        return nn.avg_pool(h, (size, size), (stride, stride), ((padding, padding), (padding, padding)))


class Residual(nn.Module):
    """Residual block: norm1, ELU, conv1, norm2, ELU, conv2, with a shortcut if channels change or `halve` is True.

    With dilation > 1 the block never downsamples: dilation increases the receptive field instead, and the shortcut is
    3 × 3.
    """

    levels: int
    features: int
    halve: bool = False
    dilation: int = 1

    @nn.compact
    def __call__(self, h: Array, level: Array) -> Array:
        inputs, dilated = h.shape[-1], self.dilation > 1
        norm = lambda name, h: nn.elu(Norm(self.levels, name=name)(h, level))
        convolve = lambda name, h, n: _conv(name, h, n, dilation=self.dilation)
        x = convolve("conv1", norm("norm1", h), inputs if self.halve else self.features)
        x = convolve("conv2", norm("norm2", x), self.features)
        if self.halve or inputs != self.features:
            h = _conv("shortcut", h, self.features, dilation=self.dilation, size=3 if dilated else 1)
        if self.halve and not dilated:
            x, h = _halved(x), _halved(h)
        return h + x


class Units(nn.Module):
    """A sequence of `blocks` residual units (RefineNet's RCU), each with two of norm, ELU, convolution without bias."""

    levels: int
    blocks: int

    @nn.compact
    def __call__(self, h: Array, level: Array) -> Array:
        for block in range(self.blocks):
            x = h
            for stage in range(2):
                x = nn.elu(Norm(self.levels, name=f"norm{block}_{stage}")(x, level))
                x = _conv(f"conv{block}_{stage}", x, h.shape[-1], bias=False)
            h = h + x
        return h


class Refine(nn.Module):
    """Refine block: one or two inputs, the finer one first → `features` channels at its resolution."""

    levels: int
    features: int
    last: bool = False

    @nn.compact
    def __call__(self, inputs: list[Array], level: Array) -> Array:
        hs = [Units(self.levels, 2, name=f"adapt{i}")(h, level) for i, h in enumerate(inputs)]
        if len(hs) > 1:  # multi-resolution fusion
            hs = [Norm(self.levels, name=f"fuse_norm{i}")(h, level) for i, h in enumerate(hs)]
            hs = [_conv(f"fuse{i}", h, self.features) for i, h in enumerate(hs)]
            hs = [enlarged(h, inputs[0].shape[1:3]) for h in hs]
        path = h = nn.elu(sum(hs[1:], hs[0]))
        for i in range(2):  # chained residual pooling
            path = Norm(self.levels, name=f"pool_norm{i}")(path, level)
            path = _pooled(path, 5, 1, 2)  # zeros at the edges count
            path = _conv(f"pool{i}", path, self.features, bias=False)
            h = h + path
        return Units(self.levels, 3 if self.last else 1, name="out")(h, level)


def enlarged(h: Array, size: tuple[int, ...]) -> Array:
    """Resize bilinearly with aligned corners: [B, h, w, C] → [B, H, W, C]."""
    for axis, new in enumerate(size, start=1):
        if (old := h.shape[axis]) != new:
            place = np.arange(new) * (old - 1) / (new - 1)
            weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(old)[None, :])).astype(np.float32)
            h = jnp.moveaxis(jnp.tensordot(jnp.asarray(weights, h.dtype), h, ((1,), (axis,))), 0, axis)
    return h


class RefineNet(nn.Module):
    """Score network of NCSN: z [B, H, W, C], t [B] → score [B, H, W, C] of data in [0, 1].

    z is on a scale with clean data in [−1, 1], H and W are even, and t is the index of the noise level, 0 for the most
    noise. `cond` and `keys` are ignored, because the network has no conditions and no dropout.

    Attributes:
        width: Channels n at full resolution; the network has 2 n at half resolution.
        levels: Number of noise levels.
        dtype: Dtype of the computation.
    """

    width: int
    levels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array, t: Array, cond: Cond, keys: Array | None = None) -> Array:
        n, level, h = self.width, jnp.round(t).astype(jnp.int32), z.astype(self.dtype)
        h = _conv("begin", h, n)
        stages = []
        for i, (features, dilation) in enumerate(((n, 1), (2 * n, 1), (2 * n, 2), (2 * n, 4))):
            for block in range(2):
                halve = i > 0 and block == 0
                h = Residual(self.levels, features, halve, dilation, name=f"stage{i + 1}_{block}")(h, level)
            stages.append(h)
        out: list[Array] = []
        for i, (features, skip) in enumerate(zip((2 * n, 2 * n, n, n), reversed(stages), strict=True)):
            out = [Refine(self.levels, features, i == 3, name=f"refine{i + 1}")([skip, *out], level)]
        h = nn.elu(Norm(self.levels, name="norm")(out[0], level)).astype(jnp.float32)
        return _conv("end", h, z.shape[-1])
