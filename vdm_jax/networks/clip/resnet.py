"""CLIP's ResNet: a stem of three convolutions, average pooling before what would be a stride, attention for a pool.

(Radford et al. 2021, §2.4; He et al. 2019 for the ResNet-D; Zhang 2019 for the pooling.)

Parameter tree: stem{1, 2, 3}, bn{1, 2, 3}; stage{1 … 4}/first and, stacked along a leading axis, stage{1 … 4}/rest,
each with

    conv1, conv2, conv3    kernels without bias; 1 × 1 ones are dense layers
    bn1, bn2, bn3          scale and bias; mean and var of the same paths are in the collection 'batch_stats'
    shortcut, shortcut_bn  of a first block

and pool/{positions, q, k, v, proj_out}.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import numpy as np
from jax import Array

from vdm_jax.networks import resample, sharing
from vdm_jax.networks.clip.settings import ResNet, Settings
from vdm_jax.networks.conv import Conv
from vdm_jax.networks.layers import Dense
from vdm_jax.networks.pool import AttentionPool
from vdm_jax.networks.remat import rematerialized

# PyTorch's of convolutions: U(±1/√inputs).
_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
EXPANSION = 4


def batch_norm(s: Settings, train: bool, axis_name: str | None, name: str, **changes: Any) -> nn.BatchNorm:
    """y = (x − μ)/√(σ² + ε) · scale + bias by channel (Ioffe & Szegedy 2015), statistics in float32 or better.

    train: μ and σ² are the batch's, and the running ones move; without it they are the running ones, and constants.
    axis_name: of the `jax.pmap` whose devices hold one batch; under jit a batch is whole by itself.
    """
    assert isinstance(s.image, ResNet)
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=s.image.momentum,
        epsilon=1e-5,
        dtype=s.dtype,
        axis_name=axis_name if train else None,
        use_fast_variance=False,
        name=name,
        **changes,
    )


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 and 1 × 1 convolutions with norms, residual; one step of the scan over a stage.

    stride: 2 to halve the image, 1 otherwise. Where it is 2 or the channels change the shortcut has a convolution.
    """

    settings: Settings
    features: int
    stride: int
    train: bool
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, None]:
        s, outputs = self.settings, EXPANSION * self.features
        x = sharing.over_batch(x)
        norm = partial(batch_norm, s, self.train, self.axis_name)
        pointwise = partial(Dense, use_bias=False, kernel_init=_UNIFORM, dtype=s.dtype)
        pool = resample.average if self.stride == 2 else lambda h: h
        h = nn.relu(norm("bn1")(pointwise(self.features, name="conv1")(x)))
        h = Conv(self.features, dtype=s.dtype, kernel_init=_UNIFORM, use_bias=False, name="conv2")(h)
        h = pool(nn.relu(norm("bn2")(h)))
        h = norm("bn3", scale_init=nn.initializers.zeros)(pointwise(outputs, name="conv3")(h))
        if self.stride != 1 or x.shape[-1] != outputs:
            x = norm("shortcut_bn")(pointwise(outputs, name="shortcut")(pool(x)))
        return nn.relu(x + h), None


class ModifiedResNet(nn.Module):
    """[B, size, size, C] → [B, E], in float32 or better, not normalized."""

    settings: Settings

    @nn.compact
    def __call__(self, x: Array, train: bool = False, axis_name: str | None = None) -> Array:
        """x: standardized images; train, axis_name: see `batch_norm`. With train the collection 'batch_stats' has to be
        mutable."""
        s, tower = self.settings, self.settings.image
        assert isinstance(tower, ResNet)
        half = tower.width // 2
        h = x.astype(s.dtype)
        for number, features in enumerate((half, half, tower.width), 1):
            stride, padding = (2, 1) if number == 1 else (1, None)
            conv = partial(Conv, features, stride=stride, padding=padding, use_bias=False, kernel_init=_UNIFORM)
            h = conv(dtype=s.dtype, name=f"stem{number}")(h)
            h = nn.relu(batch_norm(s, train, axis_name, f"bn{number}")(h))
        h = resample.average(h)
        for number, depth in enumerate(tower.depths, 1):
            h = Stage(s, number, depth, train, axis_name, name=f"stage{number}")(h)
        start = nn.initializers.normal(h.shape[-1] ** -0.5)
        pool = AttentionPool(s.embedding, tower.heads, start, dtype=s.dtype, attention=s.attention, name="pool")
        return pool(h).astype(np.promote_types(s.dtype, np.float32))


class Stage(nn.Module):
    """Blocks of one resolution: 'first', which changes channels and size, and 'rest', stacked."""

    settings: Settings
    number: int
    depth: int
    train: bool
    axis_name: str | None

    @nn.compact
    def __call__(self, h: Array) -> Array:
        s = self.settings
        assert isinstance(s.image, ResNet)
        features = s.image.width * 2 ** (self.number - 1)
        first = rematerialized(Bottleneck, s.remat, scanned=False)
        stride = 1 if self.number == 1 else 2
        h, _ = first(s, features, stride, self.train, self.axis_name, name="first")(h)
        if self.depth > 1:
            rest = nn.scan(
                rematerialized(Bottleneck, s.remat),
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True},
                length=self.depth - 1,
                unroll=min(s.unroll, self.depth - 1),
            )
            h, _ = rest(s, features, 1, self.train, self.axis_name, name="rest")(h)
        return h
