"""The data set `shapes`: pictures of scenes with captions. Record k of a seed is the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vdm_jax.data.paths import refuse_path
from vdm_jax.data.shapes.parse import LEAST_SIDE
from vdm_jax.data.shapes.render import SAMPLES, Drawn, draw
from vdm_jax.data.shapes.scene import (
    COLORS,
    COORDINATES,
    RADII,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
    pair,
    single,
)
from vdm_jax.data.shapes.words import captions
from vdm_jax.data.sources import Record
from vdm_jax.errors import UserError

COUNTS = {"train": 50_000, "test": 5_000, "held_out": 5_000}
SEED = 0
_STREAMS = {"train": 0, "test": 1, "held_out": 2}  # of random numbers
_PAIRS = 0.5  # of the pictures show two things
_JITTER, _APART, _ACROSS = 0.03, 0.02, 0.06  # around a position; of a pair, along its relation and across it


@dataclass(frozen=True)
class Shapes:
    """Records {"image": uint8 [side, side, 3], "caption", "captions", "scene": Scene.number}.

    split: 'train' and 'test' show the same combinations of shape and color, 'held_out' in every picture one that they
    never show. Captions are the scene's templates, and "caption" is one of them by chance, fixed by (seed, index).
    """

    split: str
    count: int
    side: int = LEAST_SIDE
    seed: int = SEED
    falsified_by = ("flip", "rot90", "channels", "crop")  # augmentations that the captions do not survive

    def __len__(self) -> int:
        return self.count

    @property
    def cost(self) -> int:
        """The number of values computed for a record; each pixel has several samples."""
        return SAMPLES**2 * 3 * self.side**2

    def __getitem__(self, index: int) -> Record:
        rng = self._rng(index)
        scene = _scene(rng, self.split == "held_out")
        image = draw(_place(rng, scene), self.side)
        texts = captions(scene)
        return {
            "image": image,
            "caption": texts[int(rng.integers(len(texts)))],
            "captions": texts,
            "scene": scene.number,
        }

    @property
    def texts(self) -> AllCaptions:
        """The captions of all records, which need no pictures."""
        return AllCaptions(self)

    def scene(self, index: int) -> Scene:
        """Return the scene of a record."""
        return _scene(self._rng(index), self.split == "held_out")

    def _rng(self, index: int) -> np.random.Generator:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return np.random.default_rng([self.seed, _STREAMS[self.split], index])


class AllCaptions(Sequence[tuple[str, ...]]):
    """The captions of every record of `shapes`, computed when they are read."""

    def __init__(self, shapes: Shapes):
        self._shapes = shapes

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        return captions(self._shapes.scene(int(index)))


def _scene(rng: np.random.Generator, held_out: bool) -> Scene:
    """Draw a scene that has, or does not have, a held-out combination."""
    while True:
        if rng.random() < _PAIRS:
            first, second = _thing(rng), _thing(rng)
            if first == second:
                continue
            scene = pair(first, RELATIONS[rng.integers(len(RELATIONS))], second)
        else:
            scene = single(_thing(rng), int(rng.integers(3)), int(rng.integers(3)))
        if scene.held_out == held_out:
            return scene


def _thing(rng: np.random.Generator) -> Thing:
    pick = lambda names: names[int(rng.integers(len(names)))]
    return Thing(pick(SHAPES), pick(tuple(COLORS)), pick(tuple(RADII)))


def _place(rng: np.random.Generator, scene: Scene) -> list[Drawn]:
    """Draw the places of the objects of a scene; two objects are at least a twelfth of the side apart."""
    radii = [rng.uniform(*RADII[thing.size]) for thing in scene.things]
    if len(scene.things) == 1:
        place = next(place for place in _CENTERS if place[0] == scene.where)
        points = [np.asarray(place[1:]) + rng.uniform(-_JITTER, _JITTER, 2)]
    else:
        along = np.array([COORDINATES[0], COORDINATES[-1]]) + rng.uniform(-_APART, _APART, 2)
        across = 0.5 + rng.uniform(-_ACROSS, _ACROSS, 2)
        points = list(np.stack([along, across] if scene.where == "left of" else [across, along], axis=-1))
    return [
        Drawn(thing.shape, thing.color, float(x), float(y), radius)
        for thing, (x, y), radius in zip(scene.things, points, radii, strict=True)
    ]


_CENTERS = [
    (single(Thing("circle", "red", "small"), column, row).where, COORDINATES[column], COORDINATES[row])
    for column in range(3)
    for row in range(3)
]


def read(part: str, path: str, shape: Sequence[int] | None, *, held_out: bool = False) -> tuple[Shapes, str]:
    """shapes: uint8 [S, S, 3], S of data.shape, 32 or more. held_out: its test pictures show combinations of shape and
    color that training does not."""
    name = "shapes_held_out" if held_out else "shapes"
    refuse_path(name, path)
    side = int(shape[0]) if shape else LEAST_SIDE
    if (shape and tuple(shape) != (side, side, 3)) or side < LEAST_SIDE:
        raise UserError(
            f"data.shape={tuple(shape or ())} but {name} are RGB squares of {LEAST_SIDE} pixels or more, where every "
            f"shape can be recognized; set --config.data.shape='({max(side, LEAST_SIDE)}, {max(side, LEAST_SIDE)}, 3)'"
        )
    split = "held_out" if held_out and part == "test" else part
    return Shapes(split, COUNTS[split], side), f"{split} scenes, seed {SEED}, {COUNTS[split]:,}"
