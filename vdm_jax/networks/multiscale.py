"""The multiscale U-Net of DDPM, Improved DDPM, ADM, DDPM++ and NCSN++; `families` lists their settings.

    z → conv_in → resolution 0: blocks → shrink → … → resolution K − 1: blocks → block, attention, block
      → resolution K − 1: blocks on (h, skip) → grow → … → resolution 0 → norm, swish, conv_out

Parameter tree, for resolutions i < K with 0 the finest ({} marks parts that depend on the settings):

    dense0, dense1                  embedding of t: {kernel, bias}
    {frequencies [width]}           Fourier embedding, fixed: its gradient is 0
    {classes/embedding}             [num_classes, 4 width]
    {mapping}                       mapping network of a latent: dense0, …, dense{n}
    conv_in, norm_out, conv_out     {kernel, bias}, {scale, bias}, {kernel, bias}
    down{i}/first/res               block 0 of a resolution: norm1, conv1, cond_proj, norm2, conv2, {shortcut}
    down{i}/first/{attn}            norm, q, k, v, proj_out
    down{i}/{rest}/res, {attn}      blocks 1 … depth − 1, every leaf with a leading axis of depth − 1
    mid1, mid_attn, mid2            res, attn, res
    {token_k, token_v}              of every attention block, of the tokens of conditions
    up{i}/first, {rest}, last       blocks 0, 1 … depth − 1 (stacked), depth; attention as above or
    up{i}/{attn}                    once, after the last block (attention_up='level')
    shrink{i}, grow{i}              from resolution i − 1 to i and from i to i − 1, i ≥ 1: conv, or
                                    res, with a shortcut if between_shortcut (resample='block')
    {conv_pyramid{i}}               input pyramid at i ≥ 1, a 3 × 3 convolution (pyramid_in='residual')
    {pyramid{i}}                    input pyramid at i ≥ 1, a dense layer (pyramid_in='skip')
    {norm_image{i}, conv_image{i}}  at every resolution, instead of norm_out and conv_out (pyramid_out='skip')

With a latent, norm1 and norm2 are {style: {kernel, bias}}, a dense layer with outputs [scale | shift]. With
scale_shift, cond_proj is a dense layer with 2 · features outputs [scale | shift]. shortcut, q, k, v and proj_out are
dense layers over the last axis; heads are contiguous in q, k and v. All parameters are float32.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vdm_jax.networks import families, resample
from vdm_jax.networks.blocks import Between, Up, last_conv, norm
from vdm_jax.networks.encoder import GROW, UP, embed, encode, part_keys, site
from vdm_jax.networks.encoders import Cond, inject, without
from vdm_jax.networks.families import Settings


class UNet(nn.Module):
    """Multiscale U-Net: z [B, H, W, C] float32, t [B] float32, cond → [B, H, W, outputs · C] float32.

    All layers except the sinusoids, the last norm and the last convolution compute in settings.dtype. The arguments
    of the call are

        z     the noisy image, on a scale with clean data in [−1, 1]; channels of conditions are concatenated with it
        t     the argument of the sinusoids: the index l − 1 in 0 … T − 1, or 1000 (l − 1)/T, of noise level l (DDPM,
              Improved DDPM, ADM); 999 t (DDPM++, NCSN++ with VP); or log σ for embedding='fourier'
        cond  name → value [B, …] for each of settings.encoders
        keys  [B] for dropout, or None to disable dropout

    With settings.scale_by_sigma the output is divided by σ = e^t.

    Raises:
        ValueError: The settings do not fit z (`families.check`).
    """

    settings: Settings

    @nn.compact
    def __call__(self, z: Array, t: Array, cond: Cond, keys: Array | None = None) -> Array:
        s = self.settings
        families.check(s, z.shape[1:])
        channels, attends = s.channels(), s.attends(z.shape[1])
        injected = without(inject(s.encoders, cond, site(s, z)), "the multiscale U-Net", "features")
        outputs = s.outputs * z.shape[-1]
        if injected.channels is not None:
            z = jnp.concatenate([z, injected.channels], axis=-1)
        blocks_cond = embed(self, s, t, injected)
        h, entries, skips = encode(s, z, blocks_cond, keys)
        image: Array | None = None

        for i, features in reversed(list(enumerate(channels))):
            up = Up(s, features, attends[i], name=f"up{i}")
            h = up(h, skips[i], entries[i], blocks_cond, part_keys(keys, i, UP))
            if s.pyramid_out == "skip":
                image = self._collect(i, h, image, outputs)
            if i:
                h = Between(s, "double", name=f"grow{i}")(h, blocks_cond, part_keys(keys, i, GROW))
        out = self._to_image(h, outputs, "norm_out", "conv_out") if image is None else image
        if s.bounded:
            out = jnp.tanh(out)
        return out * jnp.exp(-t)[:, None, None, None] if s.scale_by_sigma else out

    def _collect(self, i: int, h: Array, image: Array | None, outputs: int) -> Array:
        """Return the image at resolution i plus the upsampled image of the coarser resolution."""
        own = self._to_image(h, outputs, f"norm_image{i}", f"conv_image{i}")
        if image is None:
            return own
        return own + (resample.double(image) if self.settings.fir else resample.nearest(image))

    def _to_image(self, h: Array, outputs: int, norm_name: str, conv_name: str) -> Array:
        s = self.settings
        h = nn.swish(norm(s, h.shape[-1], norm_name, jnp.float32)(h))
        return last_conv(s, outputs, conv_name, dtype=jnp.float32)(h)
