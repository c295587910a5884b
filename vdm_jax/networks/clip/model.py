"""CLIP: an image tower, a text tower and a learned temperature.

The parameter tree is image/…, text/… and log_scale []. An image tower that is a ResNet also has the collection
'batch_stats'.
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
    """Outputs of CLIP.

    Attributes:
        image: Embeddings of images with norm 1, [B, E].
        text: Embeddings of captions with norm 1, [B, E].
        log_scale: log s, []; the logits are s · cosine, so the temperature is 1/s.
    """

    image: Array
    text: Array
    log_scale: Array


def standardized(images: Array, settings: Settings) -> Array:
    """Standardize the channels of images.

    Args:
        images: [B, H, W, C] in [−1, 1].
        settings: Settings of the model, whose `mean` and `std` are in units of pixels in [0, 1].

    Returns:
        (p − mean)/std for p = (images + 1)/2, [B, H, W, C].
    """
    mean, std = (jnp.asarray(values, images.dtype)[None, None, None] for values in (settings.mean, settings.std))
    return (0.5 * images + 0.5 - mean) / std


def normalized(x: Array) -> Array:
    """Return x/‖x‖ with the norm over the last axis."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


class CLIP(nn.Module):
    """CLIP (Radford et al. 2021, §2), or the noised CLIP of GLIDE (Nichol et al. 2021, §4.4).

    The log of the scale starts at log(1/0.07) (Radford et al. 2021, §2.5).

    Attributes:
        settings: Settings of both towers.
    """

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
            images: [B, size, size, C] in [−1, 1].
            level: The noise level of each image, int [B], for a noised tower; else None.
            train: Whether batch norms use the statistics of the batch; used by a ResNet, see `resnet.batch_norm`.
            axis_name: Name of the pmap axis of these statistics; used by a ResNet.

        Returns:
            Embeddings [B, E], not normalized.

        Raises:
            ValueError: The images have another size, or `level` does not fit the tower.
        """
        s = self.settings
        if images.shape[1:3] != (s.image.size, s.image.size):
            raise ValueError(f"images of {images.shape[1:3]} pixels; the tower takes {s.image.size}")
        x = standardized(images, s)
        if isinstance(self.image, ModifiedResNet):
            return self.image(x, train, axis_name)
        return self.image(x, level)

    def encode_text(self, ids: Array, lengths: Array | None = None) -> TextOutput:
        """Embed captions; the arguments are those of `TextTower`."""
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
        """Embed images and captions; the arguments are those of `encode_image` and `encode_text`."""
        image = self.encode_image(images, level, train, axis_name)
        return Embeddings(normalized(image), normalized(self.encode_text(ids, lengths).embedding), self.log_scale)
