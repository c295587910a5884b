"""The noisy classifier of guided diffusion (Dhariwal & Nichol 2021, §4): a U-Net's encoder and attention pooling.

The parameter tree is that of `multiscale` up to mid2, then norm_out {scale, bias} and

    pool/positions [1 + pixels, C]  added to the tokens: their mean first, then the pixels row by row
    pool/{q, k, v, proj_out}        dense layers; proj_out has one output per class
"""

from __future__ import annotations

import math
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vdm_jax.networks import families
from vdm_jax.networks.blocks import dense, norm
from vdm_jax.networks.encoder import embed, encode
from vdm_jax.networks.encoders import Cond, Injection
from vdm_jax.networks.families import Settings


class AttentionPool(nn.Module):
    """Attention pooling (CLIP): the query is the mean of all pixels. [B, H, W, C] → [B, features]."""

    settings: Settings
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        s, (batch, _, _, channels) = self.settings, x.shape
        heads = s.heads_of(channels)
        x = x.reshape(batch, -1, channels)
        x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)
        spread = nn.initializers.normal(channels**-0.5)
        x = x + self.param("positions", spread, x.shape[1:])[None]
        linear = lambda name, outputs, inputs: dense(s, channels, outputs, name)(inputs)
        q = linear("q", channels, x[:, 0]).reshape(batch, heads, -1)
        k, v = (linear(name, channels, x).reshape(batch, -1, heads, channels // heads) for name in ("k", "v"))
        weights = jax.nn.softmax(jnp.einsum("bhc,bkhc->bhk", q, k) / math.sqrt(channels // heads), axis=-1)
        h = jnp.einsum("bhk,bkhc->bhc", weights, v).reshape(batch, channels)
        return linear("proj_out", self.features, h)


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
        h = nn.swish(norm(precise, h.shape[-1], "norm_out")(h))
        return AttentionPool(precise, self.classes, name="pool")(h)
