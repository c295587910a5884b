"""Padding of MNIST's 28 × 28 images to 32 × 32, and averaging to 16 × 16: sides that a U-Net can halve often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from vdm_jax.data.sources import Arrays, Mapped, Source

GIVEN, PADDED, HALVED = 28, 32, 16


def pad(images: np.ndarray, side: int) -> np.ndarray:
    """Pad images uint8 [N, h, w, C] with zeros to 32 × 32; for side 16, also average 2 × 2 pixels and round."""
    margins = [((PADDED - n) // 2, PADDED - n - (PADDED - n) // 2) for n in images.shape[1:3]]
    images = np.pad(images, ((0, 0), *margins, (0, 0)))
    if side == PADDED:
        return images
    return halved(images)


def halved(images: np.ndarray) -> np.ndarray:
    """Average 2 × 2 pixels of images uint8 [N, h, w, C] and round, halves up: uint8 [N, h/2, w/2, C]."""
    count, height, width, channels = images.shape
    cells = images.reshape(count, height // 2, 2, width // 2, 2, channels).astype(np.uint16)
    return ((cells.sum((2, 4)) + 2) // 4).astype(np.uint8)


def pad_one(image: np.ndarray, side: int) -> np.ndarray:
    """Apply `pad` to a single image [h, w, C]."""
    return pad(image[None], side)[0]


def padded(source: Source, version: str, shape: Sequence[int] | None) -> tuple[Source, str]:
    """Pad 28 × 28 images if `shape` is (32, 32, C) or (16, 16, C); otherwise return the source unchanged."""
    side = shape[0] if shape is not None and len(shape) == 3 and shape[0] == shape[1] else 0
    if side not in (PADDED, HALVED) or not len(source) or source[0]["image"].shape[:2] != (GIVEN, GIVEN):
        return source, version
    about = f"{'padded' if side == PADDED else 'padded and halved'}, {version}"
    if isinstance(source, Arrays):
        return replace(source, images=pad(source.images, side)), about
    return Mapped(source, partial(pad_one, side=side)), about
