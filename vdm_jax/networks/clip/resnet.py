"""CLIP's ResNet (Radford et al. 2021, §2.4).

It is a ResNet-D (He et al. 2019) with a stem of three convolutions. Average pooling replaces strides (Zhang 2019), and
attention pooling replaces the global average.

The parameter tree is stem{1, 2, 3}, bn{1, 2, 3}, stage{1 … 4}/first, stage{1 … 4}/rest with the blocks stacked along
the first axis, and pool/… of `pool.AttentionPool`. Each block has

    conv1, conv2, conv3    kernels without bias; 1 × 1 convolutions are dense layers
    bn1, bn2, bn3          scale and bias; the collection 'batch_stats' has mean and var at the same paths
    shortcut, shortcut_bn  projection of the shortcut, if the block changes the shape
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

# PyTorch's initializer of convolutions, U(±1/√inputs).
_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
EXPANSION = 4


def batch_norm(s: Settings, train: bool, axis_name: str | None, name: str, **changes: Any) -> nn.BatchNorm:
    """Create a batch norm: y = (x − μ)/√(σ² + ε) · scale + bias for each channel (Ioffe & Szegedy 2015).

    Statistics are float32 or float64.

    Args:
        s: Settings of the model, whose image tower is a ResNet.
        train: Whether μ and σ² are the statistics of the batch, which also update the running statistics. Otherwise
            they are the running statistics.
        axis_name: Name of the pmap axis over which a batch is sharded; None under jit, where the batch is global.
        name: Name of the module.
        **changes: Other arguments of `flax.linen.BatchNorm`.
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
    """Residual block of 1 × 1, 3 × 3 and 1 × 1 convolutions with batch norms; one step of the scan over a stage.

    The shortcut has a convolution if the stride is 2 or the number of channels changes.

    Attributes:
        settings: Settings of the model.
        features: Number of channels of the 3 × 3 convolution; the output has `EXPANSION` times as many.
        stride: 2 to halve the resolution, else 1.
        train: See `batch_norm`.
        axis_name: See `batch_norm`.
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
    """CLIP's ResNet with attention pooling.

    Attributes:
        settings: Settings of the model, whose image tower is a ResNet.
    """

    settings: Settings

    @nn.compact
    def __call__(self, x: Array, train: bool = False, axis_name: str | None = None) -> Array:
        """Embed images.

        Args:
            x: Standardized images [B, size, size, C].
            train: See `batch_norm`. If True, the collection 'batch_stats' must be mutable.
            axis_name: See `batch_norm`.

        Returns:
            Embeddings [B, E] in float32 or float64, not normalized.
        """
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
    """Blocks of one resolution: 'first', which changes the shape, and the stacked 'rest'.

    Attributes:
        settings: Settings of the model.
        number: Number of the stage, from 1.
        depth: Number of blocks.
        train: See `batch_norm`.
        axis_name: See `batch_norm`.
    """

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
