"""What there is in a picture of `shapes`: one object at a position, or two and their relation.

A scene is kept in one canonical form: of two objects the left or upper one comes first, so that "a left of b" and "b
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
    """One object. shape: of SHAPES; color: of COLORS; size: of RADII."""

    shape: str
    color: str
    size: str

    @property
    def number(self) -> int:
        """0 … THINGS − 1."""
        place = SHAPES.index(self.shape) * len(COLORS) + list(COLORS).index(self.color)
        return place * len(RADII) + list(RADII).index(self.size)

    @property
    def held_out(self) -> bool:
        """Whether its shape is never of its color in training: of each shape one color, of no color more than one."""
        return list(COLORS).index(self.color) == SHAPES.index(self.shape)


class Scene(NamedTuple):
    """things: one or two. where: of one thing its place among POSITIONS, of two their relation among RELATIONS."""

    things: tuple[Thing, ...]
    where: str

    @property
    def number(self) -> int:
        """The same for the same scene only, 0 … SCENES − 1: what tells a caption's scene from the others of a batch."""
        if len(self.things) == 1:
            return self.things[0].number * PLACES + _PLACES.index(self.where)
        first, second = (thing.number for thing in self.things)
        return THINGS * PLACES + (first * THINGS + second) * len(RELATIONS) + RELATIONS.index(self.where)

    @property
    def held_out(self) -> bool:
        """Whether a thing of it is."""
        return any(thing.held_out for thing in self.things)


THINGS = len(SHAPES) * len(COLORS) * len(RADII)
_PLACES = tuple(place for row in POSITIONS for place in row)
PLACES = len(_PLACES)
SCENES = THINGS * PLACES + THINGS * THINGS * len(RELATIONS)


def single(thing: Thing, column: int, row: int) -> Scene:
    """One thing in that column and row, 0 … 2 each."""
    return Scene((thing,), POSITIONS[row][column])


def pair(first: Thing, relation: str, second: Thing) -> Scene:
    """`first` is left of, right of, above or below `second`."""
    if relation in RELATIONS:
        return Scene((first, second), relation)
    return Scene((second, first), next(base for base, other in CONVERSE.items() if other == relation))


def swapped(scene: Scene) -> Scene:
    """Two things with their places exchanged, which a model that ignores the order of words takes for the same."""
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
