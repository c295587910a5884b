"""Both towers and the temperature.

Parameter tree: image/…, text/…, log_scale []; a ResNet has the collection 'batch_stats' beside its parameters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vdm_jax.networks.clip.resnet import ModifiedResNet
from vdm_jax.networks.clip.settings import ResNet, Settings
from vdm_jax.networks.clip.text import TextOutput, TextTower
from vdm_jax.networks.clip.vit import VisionTransformer


class Embeddings(NamedTuple):
    """image, text: [B, E], each of norm 1; log_scale: [], of what cosines are multiplied with to be logits."""

    image: Array
    text: Array
    log_scale: Array


def standardized(images: Array, settings: Settings) -> Array:
    """Pixels on [−1, 1] → with the mean and deviation of the settings, which are of pixels on [0, 1]."""
    mean, std = (jnp.asarray(values, images.dtype)[None, None, None] for values in (settings.mean, settings.std))
    return (0.5 * images + 0.5 - mean) / std


def normalized(x: Array) -> Array:
    """x/‖x‖ along the last axis."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


class CLIP(nn.Module):
    """Radford et al. 2021, §2; with noise levels, the noised CLIP of GLIDE (Nichol et al. 2021, §5.2)."""

    settings: Settings

    def setup(self) -> None:
        s = self.settings
        self.image = ModifiedResNet(s) if isinstance(s.image, ResNet) else VisionTransformer(s)
        self.text = TextTower(s)
        self.log_scale = self.param("log_scale", nn.initializers.constant(math.log(1 / 0.07)), ())

    def encode_image(
        self, images: Array, level: Array | None = None, train: bool = False, axis_name: str | None = None
    ) -> Array:
        """Embed images.

        Args:
          images: [B, size, size, C] on [−1, 1].
          level: int [B], the noise level of each, for a noised tower.
          train, axis_name: of a ResNet's batch norms, see `resnet.batch_norm`; without train they are frozen.

        Returns:
          [B, E], not normalized.
        """
        s = self.settings
        if images.shape[1:3] != (s.image.size, s.image.size):
            raise ValueError(f"images of {images.shape[1:3]} pixels; the tower takes {s.image.size}")
        x = standardized(images, s)
        if isinstance(self.image, ModifiedResNet):
            return self.image(x, train, axis_name)
        return self.image(x, level)

    def encode_text(self, ids: Array, lengths: Array | None = None) -> TextOutput:
        """Embed captions: ids int [B, L]; lengths: see `TextTower`."""
        return self.text(ids, lengths)

    def __call__(
        self,
        images: Array,
        ids: Array,
        level: Array | None = None,
        lengths: Array | None = None,
        train: bool = False,
        axis_name: str | None = None,
    ) -> Embeddings:
        """Normalized embeddings of images and of captions; arguments as above."""
        image = self.encode_image(images, level, train, axis_name)
        return Embeddings(normalized(image), normalized(self.encode_text(ids, lengths).embedding), self.log_scale)
