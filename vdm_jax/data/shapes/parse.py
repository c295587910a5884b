"""A picture back to its scene, or None: what a model drew is measured against its caption without a judge.

By synthesis: each connected piece that is not background gets the color and the shape whose rendering is nearest to
it, and none if even that is far, so that a half-drawn shape has no name.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from vdm_jax.data.shapes.render import FORMS, coverage
from vdm_jax.data.shapes.scene import BACKGROUND, COLORS, COORDINATES, Scene, Thing, pair, single

LEAST_SIDE = 32  # from here on every scene that the generator draws is recognized
_FOREGROUND = 60.0  # distance from the background in RGB
_SPECK = 0.004  # of the picture, what is smaller is noise
_MISFIT = 0.11  # squared difference to the best rendering over the area, above which nothing is recognized
_CLEAR = 0.8  # of the misfit of the second shape, above which it might be either
_FADED = 0.06  # mean squared distance from the line between background and color, over its squared length
_SIZES = {"small": (0.09, 0.14), "large": (0.14, 0.22)}
_REACH = 0.12  # of a position or so far from it
_ALONG = 2.0  # how much farther apart two things are along their relation than across it
_EIGHT = np.ones((3, 3), bool)


class _Piece(NamedTuple):
    """A recognized thing and its center, as fractions of the side."""

    thing: Thing
    x: float
    y: float


def parse(image: np.ndarray) -> Scene | None:
    """Recognize the scene of an image, uint8 [S, S, 3] with S ≥ LEAST_SIDE; return None if it shows no scene."""
    if image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[2] != 3 or len(image) < LEAST_SIDE:
        raise ValueError(f"the parser takes square RGB images of {LEAST_SIDE} pixels or more, not {image.shape}")
    depth = BACKGROUND - image.astype(np.float64)
    pieces, count = ndimage.label(np.linalg.norm(depth, axis=-1) > _FOREGROUND, _EIGHT)
    sizes = np.bincount(pieces.ravel())[1 : count + 1]
    large = np.flatnonzero(sizes >= max(_SPECK * pieces.size, 4)) + 1
    if len(large) not in (1, 2):
        return None
    found = [_recognize(depth, pieces == number) for number in large]
    return _arrange([piece for piece in found if piece is not None]) if None not in found else None


def _recognize(depth: np.ndarray, piece: np.ndarray) -> _Piece | None:
    """Recognize one piece, bool [S, S]; depth: the background minus the image, [S, S, 3]."""
    side = len(depth)
    region = ndimage.binary_dilation(piece, _EIGHT)
    fits = []
    for color, values in COLORS.items():
        full = BACKGROUND - np.asarray(values, np.float64)
        share = np.where(region, np.clip(depth @ full / (full @ full), 0, 1), 0)
        left = (depth - share[..., None] * full)[region]
        fits.append(((left**2).sum() / max(share.sum(), 1e-9) / (full @ full), color, share))
    faded, color, share = min(fits, key=lambda fit: fit[0])
    if faded > _FADED:
        return None
    area = share.sum()
    places = np.arange(side) + 0.5
    x, y = share.sum(0) @ places / area, share.sum(1) @ places / area
    drawn = []
    for shape, form in FORMS.items():
        radius = float(np.sqrt(area / form.area))
        middle = y - form.middle * radius
        misfit = ((coverage(shape, x, middle, radius, side) - share) ** 2).sum() / area
        drawn.append((float(misfit), shape, radius, middle))
    (misfit, shape, radius, middle), (second, *_) = sorted(drawn)[:2]
    size = next((name for name, (low, high) in _SIZES.items() if low <= radius / side < high), None)
    if size is None or misfit > min(_MISFIT, _CLEAR * second):
        return None
    return _Piece(Thing(shape, color, size), x / side, middle / side)


def _arrange(pieces: list[_Piece]) -> Scene | None:
    if len(pieces) == 1:
        piece = pieces[0]
        column, row = _nearest(piece.x), _nearest(piece.y)
        return None if column is None or row is None else single(piece.thing, column, row)
    one, other = pieces
    across, down = other.x - one.x, other.y - one.y
    if abs(across) >= _ALONG * abs(down):
        return pair(one.thing, "left of" if across > 0 else "right of", other.thing)
    if abs(down) >= _ALONG * abs(across):
        return pair(one.thing, "above" if down > 0 else "below", other.thing)
    return None


def _nearest(at: float) -> int | None:
    distances = [abs(at - place) for place in COORDINATES]
    index = int(np.argmin(distances))
    return index if distances[index] <= _REACH else None
