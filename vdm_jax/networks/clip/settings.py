"""Sizes of CLIP's towers, and those that were published."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from vdm_jax.networks import transformer

# Of the pixels on [0, 1] that OpenAI's models were trained on.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ViT:
    """A vision transformer on patches.

    Attributes:
      size: pixels on a side of the image, a multiple of patch.
      patch: pixels on a side of a patch.
      levels: noise levels of the tower's own schedule, whose vectors take the place of the class token (GLIDE's noised
        CLIP); 0 for a tower of clean images.
      stem: 'patches' for a linear map of each patch, or 'convolutions' for 3 × 3 convolutions of stride 2 (Xiao et al.
        2021, arXiv:2106.14881, without batch norms), which small towers learn more from.
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
    """A modified ResNet with attention pooling.

    Attributes:
      size: pixels on a side of the image, a multiple of 32.
      width: channels behind the stem; the last stage has 32 times as many.
      depths: blocks of each of the four stages.
      heads: of the attention pooling.
      momentum: what a training step keeps of the running statistics.
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
    """A causal transformer on tokens. vocabulary: rows of the table; context: its longest sequence."""

    width: int
    depth: int
    heads: int
    vocabulary: int = 49408
    context: int = 77


@dataclass(frozen=True)
class Settings:
    """Both towers.

    Attributes:
      embedding: dimensions of the common space.
      gelu, key_bias, epsilon, dtype, attention, remat, unroll: of both transformers, see `transformer.Settings`. remat
        is that of the ResNet's blocks too.
      mean, std: of pixels on [0, 1], by channel; images are standardized with them.
    """

    embedding: int
    image: ViT | ResNet
    text: Text
    gelu: str = "quick"
    key_bias: bool = True
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32
    attention: str = "fused"
    remat: str = "none"
    unroll: int = 1
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def transformer_of(self, tower: ViT | Text) -> transformer.Settings:
        """The settings of a tower's transformer; that of text is causal."""
        return transformer.Settings(
            width=tower.width,
            depth=tower.depth,
            heads=tower.heads,
            causal=isinstance(tower, Text),
            gelu=self.gelu,
            key_bias=self.key_bias,
            epsilon=self.epsilon,
            dtype=self.dtype,
            attention=self.attention,
            remat=self.remat,
            unroll=self.unroll,
        )


def _resnet(size: int, width: int, *depths: int) -> ResNet:
    a, b, c, d = depths
    return ResNet(size, width, (a, b, c, d), heads=width // 2)


_SMALL, _LARGE = Text(512, 12, 8), Text(768, 12, 12)
_NOISED = Settings(512, ViT(64, 4, 768, 12, 12, levels=1000), replace(_SMALL, vocabulary=65536), "erf", key_bias=False)

# Radford et al. 2021, tables 19 and 20; GLIDE's is the noised one that was released (Nichol et al. 2021).
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
    """Settings of a published model, with other values of some fields. Raises ValueError for an unknown name."""
    if name not in PUBLISHED:
        raise ValueError(f"no CLIP named {name!r} was published; take one of {', '.join(PUBLISHED)}")
    return replace(PUBLISHED[name], **changes)
