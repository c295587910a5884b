"""Rendering of scenes: anti-aliased shapes on white."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vdm_jax.data.shapes.scene import BACKGROUND, COLORS

SAMPLES = 8  # of a pixel in each direction, whose share inside the shape is the pixel's coverage

Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]

_SLOPE = 1.85  # height of the triangle, from −1 to 0.85


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(abs(x), abs(y)) <= 0.9


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (abs(x) * _SLOPE <= y + 1) & (y <= 0.85)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.minimum(abs(x), abs(y)) <= 0.35) & (np.maximum(abs(x), abs(y)) <= 1)


class Form(NamedTuple):
    """inside: of coordinates in units of the radius, from the middle. area, middle: that of mass, below y = 0."""

    inside: Inside
    area: float
    middle: float = 0.0


FORMS = {
    "circle": Form(lambda x, y: x**2 + y**2 <= 1, np.pi),
    "square": Form(_square, 3.24),
    "triangle": Form(_triangle, _SLOPE, 0.7 / 3),
    "diamond": Form(lambda x, y: abs(x) + abs(y) <= 1, 2.0),
    "cross": Form(_cross, 2.31),
    "ring": Form(lambda x, y: (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.25), 0.75 * np.pi),
}


class Drawn(NamedTuple):
    """A shape with its center and its radius (half of its width), as fractions of the side."""

    shape: str
    color: str
    x: float
    y: float
    radius: float


def coverage(shape: str, x: float, y: float, radius: float, side: int) -> np.ndarray:
    """Return the share of each pixel that is inside a shape, float64 [side, side]; x, y and radius are in pixels."""
    found = np.zeros((side, side))
    left, top = max(int(np.floor(x - radius)), 0), max(int(np.floor(y - radius)), 0)
    right, bottom = min(int(np.ceil(x + radius)), side), min(int(np.ceil(y + radius)), side)
    if left >= right or top >= bottom:
        return found
    inside = FORMS[shape].inside(_samples(left, right, x, radius)[None, :], _samples(top, bottom, y, radius)[:, None])
    cells = inside.reshape(bottom - top, SAMPLES, right - left, SAMPLES)
    found[top:bottom, left:right] = cells.mean((1, 3))
    return found


def _samples(start: int, stop: int, middle: float, radius: float) -> np.ndarray:
    """Return the sample points of the pixels start … stop − 1, relative to the center, in units of the radius."""
    return (start + (np.arange((stop - start) * SAMPLES) + 0.5) / SAMPLES - middle) / radius


def draw(things: Sequence[Drawn], side: int) -> np.ndarray:
    """Render shapes as uint8 [side, side, 3]; later shapes cover earlier ones."""
    image = np.full((side, side, 3), float(BACKGROUND))
    for thing in things:
        share = coverage(thing.shape, thing.x * side, thing.y * side, thing.radius * side, side)[..., None]
        image += share * (np.asarray(COLORS[thing.color]) - image)
    return np.rint(image).astype(np.uint8)
