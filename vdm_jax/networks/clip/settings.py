"""Settings of CLIP, and those of the published models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vdm_jax.networks import transformer

# Mean and standard deviation of the training images of OpenAI's models, in units of pixels in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ViT:
    """Settings of a vision transformer.

    Attributes:
        size: Height and width of the images in pixels, a multiple of `patch`.
        patch: Height and width of a patch in pixels.
        width: Size of the states.
        depth: Number of blocks.
        heads: Number of attention heads; it divides the width.
        levels: Number of noise levels of a noised tower (GLIDE), whose learned embeddings replace the class token; 0
            for a tower of images without noise.
        stem: 'patches' for a linear map of each patch, or 'convolutions' for 3 × 3 convolutions of stride 2 (Xiao et
            al. 2021, arXiv:2106.14881, without batch norms), with which small towers learn more.

    Raises:
        ValueError: The size is not a multiple of `patch`, or the stem is unknown or does not fit it.
    """

    size: int
    patch: int
    width: int
    depth: int
    heads: int
    levels: int = 0
    stem: str = "patches"

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ValueError(f"patches of {self.patch} pixels do not fill an image of {self.size}")
        if self.stem not in ("patches", "convolutions"):
            raise ValueError(f"stem={self.stem!r} is unknown; take 'patches' or 'convolutions'")
        if self.stem == "convolutions" and self.patch & (self.patch - 1):
            raise ValueError(f"convolutions halve the image, so patch={self.patch} must be a power of 2")


@dataclass(frozen=True)
class ResNet:
    """Settings of a modified ResNet with attention pooling.

    Attributes:
        size: Height and width of the images in pixels, a multiple of 32.
        width: Number of channels after the stem; the last stage has 32 times as many.
        depths: Number of blocks of each of the four stages.
        heads: Number of heads of the attention pooling.
        momentum: Decay of the running statistics of the batch norms per training step.

    Raises:
        ValueError: The size is not a multiple of 32.
    """

    size: int
    width: int
    depths: tuple[int, int, int, int]
    heads: int
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if self.size % 32:
            raise ValueError(f"a ResNet halves an image five times; size={self.size} is no multiple of 32")


@dataclass(frozen=True)
class Text:
    """Settings of a text tower, which is a causal transformer.

    Attributes:
        width: Size of the states.
        depth: Number of blocks; 0 for the mean of the embeddings of the tokens, without their order.
        heads: Number of attention heads; it divides the width.
        vocabulary: Number of tokens.
        context: Length of the longest sequence.
    """

    width: int
    depth: int
    heads: int
    vocabulary: int = 49408
    context: int = 77


@dataclass(frozen=True)
class Settings(transformer.Common):
    """Settings of CLIP. `remat` and `unroll` also apply to the blocks of a ResNet.

    Attributes:
        embedding: Number of dimensions E of the common space.
        image: Settings of the image tower.
        text: Settings of the text tower.
        mean: Mean of each channel that images are standardized with, in units of pixels in [0, 1].
        std: Standard deviation of each channel, in the same units.
    """

    embedding: int
    image: ViT | ResNet
    text: Text
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def transformer_of(self, tower: ViT | Text) -> transformer.Settings:
        """Return the settings of a tower's transformer, which is causal for text."""
        causal = isinstance(tower, Text)
        return transformer.Settings(tower.width, tower.depth, tower.heads, causal, **self.common())


def _resnet(size: int, width: int, *depths: int) -> ResNet:
    a, b, c, d = depths
    return ResNet(size, width, (a, b, c, d), heads=width // 2)


_SMALL, _LARGE = Text(512, 12, 8), Text(768, 12, 12)
_NOISED = Settings(
    512, ViT(64, 4, 768, 12, 12, levels=1000), replace(_SMALL, vocabulary=65536), gelu="erf", key_bias=False
)

# Radford et al. 2021, tables 19 and 20. 'GLIDE' is the released noised CLIP (Nichol et al. 2021).
PUBLISHED = {
    "RN50": Settings(1024, _resnet(224, 64, 3, 4, 6, 3), _SMALL),
    "RN101": Settings(512, _resnet(224, 64, 3, 4, 23, 3), _SMALL),
    "RN50x4": Settings(640, _resnet(288, 80, 4, 6, 10, 6), Text(640, 12, 10)),
    "RN50x16": Settings(768, _resnet(384, 96, 6, 8, 18, 8), _LARGE),
    "RN50x64": Settings(1024, _resnet(448, 128, 3, 15, 36, 10), Text(1024, 12, 16)),
    "ViT-B/32": Settings(512, ViT(224, 32, 768, 12, 12), _SMALL),
    "ViT-B/16": Settings(512, ViT(224, 16, 768, 12, 12), _SMALL),
    "ViT-L/14": Settings(768, ViT(224, 14, 1024, 24, 16), _LARGE),
    "ViT-L/14@336px": Settings(768, ViT(336, 14, 1024, 24, 16), _LARGE),
    "GLIDE": _NOISED,
}


def published(name: str, **changes: Any) -> Settings:
    """Return the settings of a published model.

    Args:
        name: A key of `PUBLISHED`.
        **changes: Fields of `Settings` with other values.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in PUBLISHED:
        raise ValueError(f"no CLIP named {name!r} was published; take one of {', '.join(PUBLISHED)}")
    return replace(PUBLISHED[name], **changes)
