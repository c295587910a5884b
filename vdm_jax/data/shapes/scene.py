"""Scenes of `shapes`: one object at a position, or two objects with a relation.

A scene has one canonical form. The left or upper one of two objects comes first, so that "a left of b" and "b
right of a" are one scene. Coordinates are fractions of the side of the picture, x to the right and y downwards.
"""

from __future__ import annotations

from typing import NamedTuple

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
COLORS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (240, 220, 40),
    "green": (30, 150, 60),
    "blue": (40, 80, 220),
    "purple": (140, 50, 180),
    "pink": (250, 130, 200),
    "black": (20, 20, 20),
}
BACKGROUND = 255
RADII = {"small": (0.10, 0.12), "large": (0.16, 0.19)}  # half of an object's width
POSITIONS = (
    ("top left", "top", "top right"),
    ("left", "center", "right"),
    ("bottom left", "bottom", "bottom right"),
)
COORDINATES = (0.25, 0.5, 0.75)  # of the columns, and of the rows
RELATIONS = ("left of", "above")  # of the first object to the second
CONVERSE = {"left of": "right of", "above": "below"}


class Thing(NamedTuple):
    """An object: its shape (of SHAPES), its color (of COLORS) and its size (of RADII)."""

    shape: str
    color: str
    size: str

    @property
    def number(self) -> int:
        """The number of the object, 0 … THINGS − 1."""
        place = SHAPES.index(self.shape) * len(COLORS) + list(COLORS).index(self.color)
        return place * len(RADII) + list(RADII).index(self.size)

    @property
    def held_out(self) -> bool:
        """Whether training never shows this shape in this color. This is one color for each shape, and all differ."""
        return list(COLORS).index(self.color) == SHAPES.index(self.shape)


class Scene(NamedTuple):
    """One object with its place (of POSITIONS), or two objects with their relation (of RELATIONS)."""

    things: tuple[Thing, ...]
    where: str

    @property
    def number(self) -> int:
        """The number of the scene, 0 … SCENES − 1. Two captions describe the same scene if their numbers are equal."""
        if len(self.things) == 1:
            return self.things[0].number * PLACES + _PLACES.index(self.where)
        first, second = (thing.number for thing in self.things)
        return THINGS * PLACES + (first * THINGS + second) * len(RELATIONS) + RELATIONS.index(self.where)

    @property
    def held_out(self) -> bool:
        """Whether one of its objects is held out of training."""
        return any(thing.held_out for thing in self.things)


THINGS = len(SHAPES) * len(COLORS) * len(RADII)
_PLACES = tuple(place for row in POSITIONS for place in row)
PLACES = len(_PLACES)
SCENES = THINGS * PLACES + THINGS * THINGS * len(RELATIONS)


def single(thing: Thing, column: int, row: int) -> Scene:
    """Return the scene of one object in a column and a row, 0 … 2 each."""
    return Scene((thing,), POSITIONS[row][column])


def pair(first: Thing, relation: str, second: Thing) -> Scene:
    """Return the scene in which `first` is left of, right of, above or below `second`."""
    if relation in RELATIONS:
        return Scene((first, second), relation)
    return Scene((second, first), next(base for base, other in CONVERSE.items() if other == relation))


def swapped(scene: Scene) -> Scene:
    """Return the scene with the two objects exchanged. A model that ignores word order cannot distinguish the two."""
    return scene._replace(things=scene.things[::-1])


def agreement(found: Scene | None, wanted: Scene) -> dict[str, float]:
    """Of what was recognized in an image against what it should show, 1 or 0 each; fractions of two things.

    "scene": all of it; "count": how many things; "shape", "color", "size": of the things in their order, 0 where the
    count is another; "where": position or relation.
    """
    same = found is not None and len(found.things) == len(wanted.things)
    terms = {"scene": float(found == wanted), "count": float(same)}
    for name in Thing._fields:
        equal = (
            [getattr(a, name) == getattr(b, name) for a, b in zip(found.things, wanted.things, strict=True)]
            if (found is not None and same)
            else [False]
        )
        terms[name] = sum(equal) / len(equal)
    return terms | {"where": float(found is not None and same and found.where == wanted.where)}
