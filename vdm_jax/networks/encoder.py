"""The encoder of a multiscale network, shared by U-Nets and classifiers.

    z → conv_in → resolution 0: blocks → shrink → … → resolution K − 1: blocks → block, attention, block

The functions are called inside a module's `nn.compact`, and the layers that they create become part of that module.
The docstring of `multiscale` lists the parameters.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vdm_jax.networks import resample
from vdm_jax.networks.blocks import Between, BlockConditioning, Down, ResBlock, added, attention, conv, dense, start_of
from vdm_jax.networks.encoders import Injection, Site
from vdm_jax.networks.families import Settings
from vdm_jax.networks.layers import fold, waves
from vdm_jax.networks.remat import rematerialized

# Offsets of the dropout keys of a part, four per resolution. The finest has no shrink or grow, so the middle blocks use
# these two offsets of resolution 0.
DOWN, UP, SHRINK, GROW = range(4)
_MID1, _MID2 = SHRINK, GROW


class Encoded(NamedTuple):
    """Output of the encoder.

    Attributes:
        h: [B, H′, W′, C] at the coarsest resolution.
        entries: Input of the blocks of every resolution.
        skips: Outputs of the blocks of every resolution, [depth, B, H, W, C].
    """

    h: Array
    entries: list[Array]
    skips: list[Array]


def part_keys(keys: Array | None, level: int, part: int) -> Array | None:
    """Return dropout keys [B] for a part of resolution `level`, or None if `keys` is None."""
    return fold(keys, 4 * level + part)


def frequencies(kind: str, features: int) -> np.ndarray:
    """Return the frequencies ω_k of the sinusoids of t, k < n = features/2.

    ω_k = 10⁴^{−k/(n−1)} in DDPM and score_sde (kind='ddpm'), and 10⁴^{−k/n} in Improved DDPM.
    """
    half = features // 2
    return (1e4 ** -(np.arange(half) / (half - 1 if kind == "ddpm" else half))).astype(np.float32)


def site(s: Settings, z: Array) -> Site:
    """Return the properties of the network that encoders of conditions use."""
    return Site(z, 4 * s.width, nn.initializers.normal(1.0), start_of(s).kernel, s.dtype)


def embed(module: nn.Module, s: Settings, t: Array, injected: Injection) -> BlockConditioning:
    """Compute swish(dense1(swish(dense0(sinusoids of t))) + embeddings of conditions) [B, 4 width], with the style."""
    wide = 4 * s.width
    if s.embedding == "fourier":
        # sin, cos(2π w log σ), w ~ N(0, scale²): fixed, not trained (Tancik et al. 2020)
        w = module.param("frequencies", nn.initializers.normal(s.fourier_scale), (s.width,))
        sinusoids = waves(t, 2 * jnp.pi * jax.lax.stop_gradient(w))
    else:
        sinusoids = waves(t, jnp.asarray(frequencies(s.embedding, s.width)))
        if s.embedding == "improved":  # cosines first
            sinusoids = jnp.roll(sinusoids, s.width // 2, axis=-1)
    time = nn.swish(dense(s, sinusoids.shape[-1], wide, "dense0")(sinusoids))
    time = dense(s, wide, wide, "dense1")(time)
    if injected.embedding is not None:
        time = time + injected.embedding.astype(time.dtype)
    return BlockConditioning(nn.swish(time), injected.style, injected.tokens)


def encode(s: Settings, z: Array, cond: BlockConditioning, keys: Array | None) -> Encoded:
    """Apply all resolutions, finest first, and the middle blocks to z [B, H, W, C]."""
    channels, attends = s.channels(), s.attends(z.shape[1])
    h, pyramid = conv(s, z.shape[-1], s.entry_channels(), "conv_in")(z), z
    entries, skips = [], []
    for i, features in enumerate(channels):
        if i:
            h = Between(s, "halve", name=f"shrink{i}")(h, cond, part_keys(keys, i, SHRINK))
            h, pyramid = _join(s, i, h, pyramid)
        entries.append(h)
        h, kept = Down(s, features, attends[i], name=f"down{i}")(h, cond, part_keys(keys, i, DOWN))
        skips.append(kept)

    middle = rematerialized(ResBlock, s.remat, scanned=False)
    h = middle(s, channels[-1], name="mid1")(h, cond, part_keys(keys, 0, _MID1))
    h = attention(s, channels[-1], "mid_attn")(h, cond.tokens)
    h = middle(s, channels[-1], name="mid2")(h, cond, part_keys(keys, 0, _MID2))
    return Encoded(h, entries, skips)


def _join(s: Settings, i: int, h: Array, pyramid: Array) -> tuple[Array, Array]:
    """Return the input of the blocks of resolution i, and the copy of z for the pyramid of inputs."""
    inputs, features = pyramid.shape[-1], h.shape[-1]
    if s.pyramid_in == "none":
        return h, pyramid
    if s.pyramid_in == "skip":
        pyramid = resample.halve(pyramid) if s.fir else resample.average(pyramid)
        return dense(s, inputs, features, f"pyramid{i}")(pyramid) + h, pyramid
    fir = s.fir
    smaller = conv(s, inputs, features, f"conv_pyramid{i}", stride=2, padding=0 if fir else None)
    h = added(s, smaller(resample.blur(pyramid) if fir else pyramid), h)
    return h, h
