"""How the U-Net's weights start: as in the original, or so that the first steps already denoise.

`STRUCTURED` changes no function and no cost, only initial values:

- conv_in: half of the channels see z alone through kernels whose sum over the window is zero. At low
  noise ε̂ ≈ (z − mean of the neighbours)/σ needs a gain of 1/σ; the group norms supply it for channels
  that hold nothing but high frequencies. Beside smooth or Fourier channels these frequencies drown.
- shortcut of the up blocks: [I; 0]. The stream passes and channels keep their meaning from conv_in to
  conv_out; skips enter by conv1. Random mixing in L + 1 places gives high-pass channels back to the noise.
- conv2: Lecun's deviation over √(2L + 3), the number of blocks, instead of zero: the blocks below are
  live, and the sum of all has the size of one (as in GPT-2 and Fixup).
- cond_proj: Lecun's instead of zero, and dense0 with rows that shrink as 1/√(1 + (ω/10)²) for a
  sinusoid of ω radians per unit t: noise levels are told apart from the first step, smoothly.
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
    """Initialisers of the kernels that differ between the two."""

    conv_in: Initializer
    dense0: Initializer
    cond_proj: Initializer
    conv2: Initializer
    shortcut: Initializer


def original() -> Initial:
    """Kingma et al.'s: Lecun's, and zero for cond_proj and conv2."""
    lecun, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
    return Initial(lecun, lecun, zeros, zeros, lecun)


def structured(depth: int, channels: int) -> Initial:
    """Live from the first step; depth: L, channels: C of z. See the head of this file."""
    lecun = nn.initializers.lecun_normal()
    blocks = 2 * depth + 3
    conv2 = nn.initializers.variance_scaling(1 / blocks, "fan_in", "truncated_normal")
    return Initial(high_pass(channels), smooth_in_time(), lecun, conv2, pass_first())


def high_pass(channels: int) -> Initializer:
    """[kH, kW, I, O]: the first O/2 outputs have unit norm, zero sum over the window and no weight on
    inputs beyond the first `channels`; the others are Lecun's."""

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
    """[n + 1, O] for `timestep_embedding` ⊕ conditioning: Lecun's times a factor per row of mean square 1,
    ∝ 1/√(1 + (ω/cutoff)²) for sinusoids of ω radians per unit t."""

    def init(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        half = (shape[0] - 1) // 2
        omega = 1000 * jnp.exp(-math.log(10_000) / (half - 1) * jnp.arange(half, dtype=dtype))
        factor = 1 / jnp.sqrt(1 + jnp.square(omega / cutoff))
        factor = jnp.concatenate([factor, factor, jnp.ones(1, dtype)])
        factor = factor / jnp.sqrt(jnp.mean(jnp.square(factor)))
        return nn.initializers.lecun_normal()(key, shape, dtype) * factor[:, None]

    return init


def pass_first() -> Initializer:
    """[2n, n]: [I; 0], the first half of the input."""

    def init(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        return jnp.eye(shape[0], shape[1], dtype=dtype)

    return init


class Start(NamedTuple):
    """Initialisers of a multiscale network; bias: from the number of inputs to the layer's initialiser."""

    kernel: Initializer
    qkv: Initializer
    last: Initializer  # ends a residual branch or the network; its bias starts at 0
    bias: Callable[[int], Initializer]


def start(kind: str, qkv_scale: float) -> Start:
    """'ddpm': uniform with variance 2 s/(inputs + outputs), s = 1, qkv_scale or 1e-10, biases 0 (Ho et al. 2020).
    'torch': PyTorch's, kernels and biases U(±1/√inputs), and zeros at the end of branches (Nichol & Dhariwal 2021)."""
    scaling, zeros = nn.initializers.variance_scaling, nn.initializers.zeros
    if kind == "ddpm":
        averaged = lambda scale: scaling(scale, "fan_avg", "uniform")
        return Start(averaged(1.0), averaged(qkv_scale), averaged(1e-10), lambda inputs: zeros)
    kernel = scaling(1 / 3, "fan_in", "uniform")
    return Start(kernel, kernel, zeros, _uniform)


def _uniform(inputs: int) -> Initializer:
    bound = inputs**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)
