"""The vision transformer (Dosovitskiy et al. 2020) of CLIP and of GLIDE's noised CLIP.

Parameter tree:

    patches/kernel                        [patch · patch · C, W]; the inputs are ordered by row, column and channel
    class_token                           [W], or levels [levels, W] in a noised tower
    positions                             [1 + patches, W]
    norm_in, transformer/blocks/…, norm_out, proj/kernel
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from vdm_jax.networks.clip.settings import Settings, ViT
from vdm_jax.networks.conv import Conv
from vdm_jax.networks.layers import Dense
from vdm_jax.networks.transformer import Transformer, layer_norm
from vdm_jax.networks.transformer.settings import gelu


def patches(x: Array, side: int) -> Array:
    """Cut images [B, H, W, C] into patches [B, (H/side) (W/side), side · side · C], row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, side * side * channels)


class ConvolutionalStem(nn.Module):
    """3 × 3 convolutions of stride 2 with GELU, then a linear map (Xiao et al. 2021, without batch norms).

    Attributes:
        width: The number of channels of the output; each convolution before the last has half of the next one's.
        patch: The factor by which the image gets smaller, a power of 2.
        dtype: The dtype of the computation.
    """

    width: int
    patch: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map images [B, H, W, C] to [B, (H/patch) (W/patch), width]."""
        halvings = self.patch.bit_length() - 1
        h = x.astype(self.dtype)
        for number in range(halvings):
            features = max(self.width >> (halvings - 1 - number), 1)
            h = gelu(Conv(features, stride=2, padding=1, dtype=self.dtype, name=f"conv{number}")(h))
        return Dense(self.width, dtype=self.dtype, name="out")(h.reshape(len(h), -1, h.shape[-1]))


class VisionTransformer(nn.Module):
    """CLIP's vision transformer.

    Attributes:
        settings: Settings of the model, whose image tower is a ViT.
    """

    settings: Settings

    @nn.compact
    def __call__(self, x: Array, level: Array | None = None) -> Array:
        """Embed images.

        Args:
            x: Standardized images [B, size, size, C].
            level: The noise level of each image, int [B] in [0, levels), for a noised tower; else None.

        Returns:
            Embeddings [B, E] in float32 or float64, not normalized.

        Raises:
            ValueError: A noised tower gets no level, or another tower gets one.
        """
        s, tower = self.settings, self.settings.image
        assert isinstance(tower, ViT)
        if (level is None) != (tower.levels == 0):
            raise ValueError("a noised image tower takes the level of each image, another one takes none")
        spread = nn.initializers.normal(tower.width**-0.5)
        if tower.stem == "convolutions":
            h = ConvolutionalStem(tower.width, tower.patch, s.dtype, name="stem")(x)
        else:
            start = nn.initializers.normal((2 / (tower.width * tower.patch**2)) ** 0.5)
            cut = patches(x, tower.patch).astype(s.dtype)
            h = Dense(tower.width, use_bias=False, kernel_init=start, dtype=s.dtype, name="patches")(cut)
        if level is None:
            first = self.param("class_token", spread, (tower.width,))[None]
        else:
            first = jnp.take(self.param("levels", spread, (tower.levels, tower.width)), level, axis=0)
        first = jnp.broadcast_to(first[:, None].astype(h.dtype), (len(h), 1, tower.width))
        h = jnp.concatenate([first, h], axis=1)
        h = h + self.param("positions", spread, h.shape[1:])[None].astype(h.dtype)
        h = layer_norm(s.epsilon, s.dtype, "norm_in")(h)
        h = Transformer(s.transformer_of(tower), name="transformer")(h)
        h = layer_norm(s.epsilon, s.dtype, "norm_out")(h[:, 0])
        h = Dense(s.embedding, use_bias=False, kernel_init=spread, dtype=s.dtype, name="proj")(h)
        return h.astype(np.promote_types(s.dtype, np.float32))
