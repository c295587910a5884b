"""Random crops, which train the classifiers of guided diffusion (Dhariwal & Nichol 2021), and resizing for evaluation.

An image is resized so that its side is between S, the side of the crop, and S/0.8, and a random S × S square is cut
from it. Records are squares of S pixels, which the crop enlarges, or preferably of S/0.8 pixels and more, which it
shrinks: the original crops from full-size photographs. Resizing uses Pillow's bicubic filter, whose support widens when
it shrinks an image. The original first halves the image with a box filter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

LEAST = 0.8  # the smallest ratio of the crop's side to the image's side


class Crops(NamedTuple):
    """The crops that are drawn for each of N images.

    Attributes:
        side: The side of the resized image, in pixels, int [N].
        place: The position of the crop's corner (top, left) as a fraction of the possible positions, in [0, 1), [N, 2].
    """

    side: np.ndarray
    place: np.ndarray

    def rows(self, chosen: np.ndarray) -> Crops:
        """Return the crops of the images `chosen`."""
        return Crops(self.side[chosen], self.place[chosen])


def draw(rng: np.random.Generator, count: int, size: int) -> Crops:
    """Draw crops: sides uniform over size … ⌈size/0.8⌉, corners uniform over the possible positions."""
    return Crops(rng.integers(size, math.ceil(size / LEAST) + 1, count), rng.random((count, 2)))


def crop(images: np.ndarray, drawn: Crops, size: int, highest: int) -> np.ndarray:
    """Crop images uint8 [N, R, R, C] to [N, size, size, C], with values up to `highest`."""
    corners = np.floor(drawn.place * (drawn.side - size + 1)[:, None])
    scale = images.shape[1] / drawn.side
    boxes = np.concatenate([corners[:, ::-1], corners[:, ::-1] + size], axis=1) * scale[:, None]
    return np.stack([_resized(image, size, box, highest) for image, box in zip(images, boxes.tolist(), strict=True)])


def whole(image: np.ndarray, size: int, highest: int) -> np.ndarray:
    """Resize the complete image uint8 [R, R, C] to [size, size, C], as evaluation of a model trained on crops does."""
    return _resized(image, size, None, highest)


def _resized(image: np.ndarray, size: int, box: Sequence[float] | None, highest: int) -> np.ndarray:
    """Resize a box (left, top, right, bottom) of an image uint8 [R, R, C], or all of it, to uint8 [size, size, C].

    The filter also reads pixels around the box, as if the image were resized first and cropped afterwards.
    """
    edge = float(image.shape[0])
    left, top, right, bottom = (min(max(at, 0.0), edge) for at in box or (0.0, 0.0, edge, edge))
    bicubic = Image.Resampling.BICUBIC
    one = lambda pixels: np.asarray(Image.fromarray(pixels).resize((size, size), bicubic, (left, top, right, bottom)))
    if image.shape[-1] == 3:
        resized = one(image)
    else:
        resized = np.stack([one(np.ascontiguousarray(image[..., c])) for c in range(image.shape[-1])], axis=-1)
    return np.minimum(resized, highest)  # the filter overshoots
