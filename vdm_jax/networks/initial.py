"""Kernel initializers of the U-Nets: those of the originals, and one with which the first steps already denoise.

`structured` changes neither the function nor its cost, only the initial values:

- conv_in: half of the channels depend only on z, with kernels that sum to zero over the window. At low noise,
  ε̂ ≈ (z − mean of the neighbors)/σ needs a gain of 1/σ, which the group norms supply for channels that contain only
  high frequencies. In a group with smooth or Fourier channels, the norm would suppress these frequencies.
- shortcut of the decoder blocks: [I; 0]. The residual stream passes unchanged from conv_in to conv_out, and skips
  enter through conv1. Random mixing in L + 1 blocks would mix the high-pass channels with all others.
- conv2: LeCun's standard deviation over √(2L + 3), the root of the number of blocks, instead of zero. The gradients of
  all blocks are nonzero, and the sum of all blocks has the scale of one (as in GPT-2 and Fixup).
- cond_proj: LeCun's instead of zero; and rows of dense0 that decrease as 1/√(1 + (ω/10)²) for a sinusoid of ω radians
  per unit t. The network is a smooth, nonconstant function of the noise level from the first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

Initializer = nn.initializers.Initializer


class Initial(NamedTuple):
    """Initializers of the kernels that differ between `original` and `structured`."""

    conv_in: Initializer
    dense0: Initializer
    cond_proj: Initializer
    conv2: Initializer
    shortcut: Initializer


def original() -> Initial:
    """Return the initializers of Kingma et al. (2021): LeCun's, and zero for cond_proj and conv2."""
    lecun, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
    return Initial(lecun, lecun, zeros, zeros, lecun)


def structured(depth: int, channels: int) -> Initial:
    """Return initializers with which all blocks contribute from the first step; see the docstring of this module.

    Args:
        depth: Blocks L on each side of the U-Net.
        channels: Channels C of z.
    """
    lecun = nn.initializers.lecun_normal()
    blocks = 2 * depth + 3
    conv2 = nn.initializers.variance_scaling(1 / blocks, "fan_in", "truncated_normal")
    return Initial(high_pass(channels), smooth_in_time(), lecun, conv2, pass_first())


def high_pass(channels: int) -> Initializer:
    """Return an initializer of kernels [kH, kW, I, O] whose first O/2 outputs are high-pass filters.

    The kernels of these outputs have unit norm, sum to zero over the window, and are zero for inputs other than the
    first `channels`. The other outputs have LeCun's initializer.
    """

    def init(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        first, rest = jax.random.split(key)
        half = shape[-1] // 2
        k = jax.random.normal(first, (*shape[:2], channels, half), dtype)
        k = k - k.mean((0, 1), keepdims=True)
        k = k / jnp.sqrt(jnp.sum(jnp.square(k), axis=(0, 1, 2), keepdims=True))
        k = jnp.concatenate([k, jnp.zeros((*shape[:2], shape[2] - channels, half), dtype)], axis=2)
        other = nn.initializers.lecun_normal()(rest, shape, dtype)
        return jnp.concatenate([k, other[..., half:]], axis=-1)

    return init


def smooth_in_time(cutoff: float = 10.0) -> Initializer:
    """Return an initializer of kernels [n + 1, O] for [`timestep_embedding` | conditioning].

    It is LeCun's times a factor per row ∝ 1/√(1 + (ω/cutoff)²) for sinusoids of ω radians per unit t. The mean square
    of the factors is 1.
    """

    def init(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        half = (shape[0] - 1) // 2
        omega = 1000 * jnp.exp(-math.log(10_000) / (half - 1) * jnp.arange(half, dtype=dtype))
        factor = 1 / jnp.sqrt(1 + jnp.square(omega / cutoff))
        factor = jnp.concatenate([factor, factor, jnp.ones(1, dtype)])
        factor = factor / jnp.sqrt(jnp.mean(jnp.square(factor)))
        return nn.initializers.lecun_normal()(key, shape, dtype) * factor[:, None]

    return init


def pass_first() -> Initializer:
    """Return an initializer of kernels [2n, n] with the value [I; 0], which selects the first half of the input."""

    def init(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        return jnp.eye(shape[0], shape[1], dtype=dtype)

    return init


class Start(NamedTuple):
    """Initializers of a multiscale network.

    Attributes:
        kernel: Kernels of most layers.
        qkv: Kernels of q, k and v in attention.
        last: Kernels that end a residual branch or the network; their biases are 0.
        bias: Function from the number of inputs of a layer to the initializer of its bias.
    """

    kernel: Initializer
    qkv: Initializer
    last: Initializer
    bias: Callable[[int], Initializer]


def start(kind: str, qkv_scale: float) -> Start:
    """Return the initializers of a multiscale network.

    Args:
        kind: 'ddpm' (Ho et al. 2020): kernels are uniform with variance 2 s/(inputs + outputs), where s is 1,
            `qkv_scale` or 1e-10, and biases are 0. 'torch' (Nichol & Dhariwal 2021): PyTorch's U(±1/√inputs) for
            kernels and biases, and zeros at the end of branches.
        qkv_scale: Scale s of q, k and v; used by 'ddpm'.
    """
    scaling, zeros = nn.initializers.variance_scaling, nn.initializers.zeros
    if kind == "ddpm":
        averaged = lambda scale: scaling(scale, "fan_avg", "uniform")
        return Start(averaged(1.0), averaged(qkv_scale), averaged(1e-10), lambda inputs: zeros)
    kernel = scaling(1 / 3, "fan_in", "uniform")
    return Start(kernel, kernel, zeros, _uniform)


def _uniform(inputs: int) -> Initializer:
    bound = inputs**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)
