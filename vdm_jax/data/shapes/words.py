"""Captions of scenes, and their parser. Every template describes the scene completely."""

from __future__ import annotations

import re

from vdm_jax.data.shapes.scene import COLORS, CONVERSE, POSITIONS, RADII, SHAPES, Scene, Thing, pair, single

_PHRASES = {"left of": ("left of", "to the left of"), "right of": ("right of", "to the right of")}
_THING = re.compile(rf"\b({'|'.join(RADII)}) ({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b")
_RELATION = re.compile(r"\b(left of|right of|above|below)\b")
_BASE = {other: base for base, other in CONVERSE.items()}


def captions(scene: Scene) -> tuple[str, ...]:
    """Return all captions of a scene, the plainest first."""
    if len(scene.things) == 1:
        return _of_one(_phrase(scene.things[0]), scene.where)
    first, second = (_phrase(thing) for thing in scene.things)
    found = []
    for one, relation, other in ((first, scene.where, second), (second, CONVERSE[scene.where], first)):
        for words in _PHRASES.get(relation, (relation,)):
            found += [f"a {one} {words} a {other}", f"there is a {one} {words} a {other}"]
    return tuple(sorted(found, key=lambda caption: (not caption.startswith(f"a {first}"), len(caption))))


def _phrase(thing: Thing) -> str:
    return f"{thing.size} {thing.color} {thing.shape}"


def _of_one(phrase: str, place: str) -> tuple[str, ...]:
    there = "in the center" if place == "center" else f"at the {place}"
    return f"a {phrase} {there}", f"there is a {phrase} {there}", f"{phrase}, {place}", f"{there} is a {phrase}"


def read_caption(caption: str) -> Scene | None:
    """Return the scene that a caption describes, or None if it is not a caption of a scene."""
    text = " ".join(caption.lower().split())
    found = list(_THING.finditer(text))
    things = [Thing(shape=match[3], color=match[2], size=match[1]) for match in found]
    if len(things) == 2:
        relations = _RELATION.findall(text, found[0].end(), found[1].start())
        return pair(things[0], relations[0], things[1]) if len(relations) == 1 else None
    if len(things) != 1:
        return None
    rest = text[: found[0].start()] + text[found[0].end() :]
    places = [(column, row, place) for row, line in enumerate(POSITIONS) for column, place in enumerate(line)]
    named = [each for each in places if re.search(rf"\b{each[2]}\b", rest)]
    if not named:
        return None
    column, row, _ = max(named, key=lambda each: len(each[2]))  # "top left" names "top" too
    return single(things[0], column, row)
