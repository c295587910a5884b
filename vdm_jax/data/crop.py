"""Random crops, as guided diffusion's classifiers are trained on (Dhariwal & Nichol 2021), and whole images instead.

An image is resized so that its side is between the S of the crop and S/0.8, and S × S pixels of it are taken. Records
are squares of S pixels, which such a crop enlarges, or better of S/0.8 and more, which it makes smaller: the original
crops from whole photographs. Resizing is Pillow's bicubic filter, wider where it makes smaller; the original halves by
boxes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

LEAST = 0.8  # of the side of an image is in its crop


class Crops(NamedTuple):
    """What is taken of each of N images. side: int [N], of the whole image; place: in [0, 1), [N, 2], of the corner
    among those that there are, top and left."""

    side: np.ndarray
    place: np.ndarray

    def rows(self, chosen: np.ndarray) -> Crops:
        """What is taken of some of them."""
        return Crops(self.side[chosen], self.place[chosen])


def draw(rng: np.random.Generator, count: int, size: int) -> Crops:
    """Sides size … ⌈size/0.8⌉, equally likely, and corners, equally likely too."""
    return Crops(rng.integers(size, math.ceil(size / LEAST) + 1, count), rng.random((count, 2)))


def crop(images: np.ndarray, drawn: Crops, size: int, highest: int) -> np.ndarray:
    """uint8 [N, R, R, C] → [N, size, size, C], levels up to `highest`."""
    corners = np.floor(drawn.place * (drawn.side - size + 1)[:, None])
    scale = images.shape[1] / drawn.side
    boxes = np.concatenate([corners[:, ::-1], corners[:, ::-1] + size], axis=1) * scale[:, None]
    return np.stack([_resized(image, size, box, highest) for image, box in zip(images, boxes.tolist(), strict=True)])


def whole(image: np.ndarray, size: int, highest: int) -> np.ndarray:
    """uint8 [R, R, C] → all of it as [size, size, C]: what crops are judged on."""
    return _resized(image, size, None, highest)


def _resized(image: np.ndarray, size: int, box: Sequence[float] | None, highest: int) -> np.ndarray:
    """A box (left, top, right, bottom) of an image uint8 [R, R, C], or all of it → uint8 [size, size, C].

    Pixels around the box count as they would if the image were resized and cut afterwards.
    """
    edge = float(image.shape[0])
    left, top, right, bottom = (min(max(at, 0.0), edge) for at in box or (0.0, 0.0, edge, edge))
    bicubic = Image.Resampling.BICUBIC
    one = lambda pixels: np.asarray(Image.fromarray(pixels).resize((size, size), bicubic, (left, top, right, bottom)))
    if image.shape[-1] == 3:
        found = one(image)
    else:
        found = np.stack([one(np.ascontiguousarray(image[..., c])) for c in range(image.shape[-1])], axis=-1)
    return np.minimum(found, highest)  # the filter overshoots
