"""One U-Net that resamples, for DDPM, Improved DDPM, DDPM++ and NCSN++ (`families` says how they differ).

    z → conv_in → level 0: blocks → shrink → … → level K − 1: blocks → block, attention, block
      → level K − 1: blocks on (h, skip) → grow → … → level 0 → norm, swish, conv_out

Parameter tree, for levels i < K with 0 the finest ({} marks what only some settings have):

    dense0, dense1                  of the embedding of t: {kernel, bias}
    {frequencies [width]}           of the Fourier embedding, fixed: its gradient is 0
    {classes/embedding}             [num_classes, 4 width]
    {mapping}                       of a latent: dense0, …, dense{n}
    conv_in, norm_out, conv_out     {kernel, bias}, {scale, bias}, {kernel, bias}
    down{i}/first/res               block 0 of a level: norm1, conv1, cond_proj, norm2, conv2, {shortcut}
    down{i}/first/{attn}            norm, q, k, v, proj_out
    down{i}/{rest}/res, {attn}      blocks 1 … depth − 1, every leaf with a leading axis of depth − 1
    mid1, mid_attn, mid2            res, attn, res
    up{i}/first, {rest}, last       blocks 0, 1 … depth − 1 (stacked), depth; attention as above or
    up{i}/{attn}                    once, behind the last block (attention_up='level')
    shrink{i}, grow{i}              into level i from above, i ≥ 1; out of level i upwards, i ≥ 1: conv, or
                                    res, with a shortcut always (resample='block')
    {conv_pyramid{i}}               into level i ≥ 1: 3 × 3 ('residual'), or a dense layer named
    {pyramid{i}}                    so ('skip')
    {norm_image{i}, conv_image{i}}  of every level, instead of norm_out and conv_out (pyramid_out='skip')

Under a latent norm1 and norm2 are {style: {kernel, bias}}, a dense layer with outputs [scale | shift].
cond_proj is a dense layer with 2 · features outputs [scale | shift] under scale_shift; shortcut, q, k, v and
proj_out are dense layers, channels on the last axis; heads are contiguous in q, k and v. All is float32.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vdm_jax.networks import families, resample
from vdm_jax.networks.blocks import (
    Between,
    Down,
    ResBlock,
    Told,
    Up,
    added,
    attention,
    conv,
    dense,
    last_conv,
    norm,
    start_of,
)
from vdm_jax.networks.families import Settings
from vdm_jax.networks.layers import fold, waves
from vdm_jax.networks.remat import rematerialised
from vdm_jax.networks.style import Mapping

# Which keys of dropout a part takes, four to a level; the coarsest is entered by nothing, the finest left by nothing.
_DOWN, _UP, _SHRINK, _GROW = range(4)
_MID1, _MID2 = _SHRINK, _GROW


def frequencies(kind: str, features: int) -> np.ndarray:
    """ω_k, k < n = features/2: 10⁴^{−k/(n−1)} in DDPM and score_sde, 10⁴^{−k/n} in Improved DDPM."""
    half = features // 2
    return (1e4 ** -(np.arange(half) / (half - 1 if kind == "ddpm" else half))).astype(np.float32)


class UNet(nn.Module):
    """z [B, H, W, C] float32, t [B] float32, conditioning [B] → [B, H, W, outputs · C] float32.

    t: what the sinusoids are taken of, as it is: the level l − 1 of 0 … T − 1 or 1000 (l − 1)/T (DDPM, Improved
    DDPM), 999 t (DDPM++, NCSN++ under VP); under embedding='fourier' log σ, by whose σ = e^t
    scale_by_sigma divides. conditioning: the class if there are any, w [B, latent] of a generator, else unused.
    keys: [B] for dropout, None for none. z is what the network sees: [−1, 1] on clean data.
    Everything but the sinusoids, the last norm and the last convolution computes in settings.dtype.
    Raises ValueError if the settings don't suit z (`families.check`).
    """

    settings: Settings

    @nn.compact
    def __call__(self, z: Array, t: Array, conditioning: Array, keys: Array | None = None) -> Array:
        s = self.settings
        families.check(s, z.shape[1:])
        channels, attends = s.channels(), s.attends(z.shape[1])
        cond = self._embed(t, conditioning)
        part = lambda level, number: fold(keys, 4 * level + number)

        h, pyramid = conv(s, z.shape[-1], s.width, "conv_in")(z), z
        entries, skips = [], []
        for i, features in enumerate(channels):
            if i:
                h = Between(s, "halve", name=f"shrink{i}")(h, cond, part(i, _SHRINK))
                h, pyramid = self._join(i, h, pyramid)
            entries.append(h)
            h, kept = Down(s, features, attends[i], name=f"down{i}")(h, cond, part(i, _DOWN))
            skips.append(kept)

        middle = rematerialised(ResBlock, s.remat, scanned=False)
        h = middle(s, channels[-1], name="mid1")(h, cond, part(0, _MID1))
        h = attention(s, channels[-1], "mid_attn")(h)
        h = middle(s, channels[-1], name="mid2")(h, cond, part(0, _MID2))

        image, outputs = None, s.outputs * z.shape[-1]
        for i, features in reversed(list(enumerate(channels))):
            h = Up(s, features, attends[i], name=f"up{i}")(h, skips[i], entries[i], cond, part(i, _UP))
            if s.pyramid_out == "skip":
                image = self._collect(i, h, image, outputs)
            if i:
                h = Between(s, "double", name=f"grow{i}")(h, cond, part(i, _GROW))
        out = self._to_image(h, outputs, "norm_out", "conv_out") if image is None else image
        if s.bounded:
            out = jnp.tanh(out)
        return out * jnp.exp(-t)[:, None, None, None] if s.scale_by_sigma else out

    def _embed(self, t: Array, conditioning: Array) -> Told:
        """swish(dense1(swish(dense0(sinusoids of t))) + class) [B, 4 width], and the style of a latent."""
        s, wide = self.settings, 4 * self.settings.width
        if s.embedding == "fourier":
            # sin, cos(2π w log σ), w ~ N(0, scale²): drawn once, never trained (Tancik et al. 2020)
            w = self.param("frequencies", nn.initializers.normal(s.fourier_scale), (s.width,))
            told = waves(t, 2 * jnp.pi * jax.lax.stop_gradient(w))
        else:
            told = waves(t, jnp.asarray(frequencies(s.embedding, s.width)))
            if s.embedding == "improved":  # cosines first
                told = jnp.roll(told, s.width // 2, axis=-1)
        cond = nn.swish(dense(s, told.shape[-1], wide, "dense0")(told))
        cond = dense(s, wide, wide, "dense1")(cond)
        if s.num_classes:
            table = nn.Embed(s.num_classes, wide, embedding_init=nn.initializers.normal(1.0), name="classes")
            cond = cond + table(conditioning.astype(jnp.int32)).astype(cond.dtype)
        if not s.latent:
            return Told(nn.swish(cond))
        mapping = Mapping(s.latent_width, s.mapping_depth, s.dtype, start_of(s).kernel, name="mapping")
        return Told(nn.swish(cond), mapping(conditioning))

    def _join(self, i: int, h: Array, pyramid: Array) -> tuple[Array, Array]:
        """What enters level i, and the copy of z at its resolution."""
        s, inputs, features = self.settings, pyramid.shape[-1], h.shape[-1]
        if s.pyramid_in == "none":
            return h, pyramid
        if s.pyramid_in == "skip":
            pyramid = resample.halve(pyramid) if s.fir else resample.average(pyramid)
            return dense(s, inputs, features, f"pyramid{i}")(pyramid) + h, pyramid
        fir = s.fir
        smaller = conv(s, inputs, features, f"conv_pyramid{i}", stride=2, padding=0 if fir else None)
        h = added(s, smaller(resample.blur(pyramid) if fir else pyramid), h)
        return h, h

    def _collect(self, i: int, h: Array, image: Array | None, outputs: int) -> Array:
        """The image of level i + the doubled image of the level below."""
        own = self._to_image(h, outputs, f"norm_image{i}", f"conv_image{i}")
        if image is None:
            return own
        return own + (resample.double(image) if self.settings.fir else resample.nearest(image))

    def _to_image(self, h: Array, outputs: int, norm_name: str, conv_name: str) -> Array:
        s = self.settings
        h = nn.swish(norm(s, h.shape[-1], norm_name, jnp.float32)(h))
        return last_conv(s, outputs, conv_name, dtype=jnp.float32)(h)
