"""The noisy classifier of guided diffusion (Dhariwal & Nichol 2021, §4): a U-Net's encoder and attention pooling.

The parameter tree is that of `multiscale` up to mid2, then norm_out {scale, bias} and pool/… of
`pool.AttentionPool`.
"""

from __future__ import annotations

from dataclasses import replace

import flax.linen as nn
import numpy as np
from jax import Array

from vdm_jax.networks import families
from vdm_jax.networks.blocks import norm, start_of
from vdm_jax.networks.encoder import embed, encode
from vdm_jax.networks.encoders import Cond, Injection
from vdm_jax.networks.families import Settings
from vdm_jax.networks.pool import AttentionPool


class Classifier(nn.Module):
    """Noisy classifier: z [B, H, W, C], t [B] → logits [B, classes], equal to log p(c | z_t) up to a constant.

    The inputs z and t are those of `multiscale.UNet`. `cond` is ignored, because it may contain the label itself;
    `keys` [B] are for dropout. Layers up to the last norm compute in settings.dtype, the others in at least float32.

    Attributes:
        settings: Settings of the network.
        classes: Number of classes.

    Raises:
        ValueError: The settings do not fit z (`families.check`), or they have encoders of conditions.
    """

    settings: Settings
    classes: int

    @nn.compact
    def __call__(self, z: Array, t: Array, cond: Cond | None = None, keys: Array | None = None) -> Array:
        s = self.settings
        families.check(s, z.shape[1:])
        if s.encoders:
            raise ValueError(f"a classifier is conditioned on t alone, not on {s.encoders[0].name!r}")
        h = encode(s, z, embed(self, s, t, Injection()), keys).h
        precise = replace(s, dtype=np.promote_types(s.dtype, np.float32))
        channels, start = h.shape[-1], start_of(s)
        h = nn.swish(norm(precise, channels, "norm_out")(h))
        heads, bias = s.heads_of(channels), start.bias(channels)
        return AttentionPool(self.classes, heads, start.kernel, bias, precise.dtype, "einsum", name="pool")(h)
