"""The layout of a folder of images: which subfolders are the split, and which are the classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from vdm_jax.errors import UserError

PARTS = ("train", "test")
_ENDING = r"(?:[ _.-]?(?:sets?|data|images?|imgs?|\d[\dx]*))?"  # as in train_images, val2017
_SPELLINGS = {  # the folder names that denote a part, preferred first
    "train": (re.compile(rf"train(?:ing)?{_ENDING}", re.IGNORECASE),),
    "test": (
        re.compile(rf"test(?:ing)?{_ENDING}", re.IGNORECASE),
        re.compile(rf"val(?:id(?:ation)?)?{_ENDING}", re.IGNORECASE),
    ),
}


class Layout(NamedTuple):
    """The layout of a folder of images.

    Attributes:
        base: The folders that contain all images, '' or 'a/'.
        folders: The folder of each part, relative to `base`; {} without a split.
        names: The sorted names of the images of each part, relative to its folder; without a split, each part has all
            of them.
        unread: The names of images that belong to neither part.
    """

    base: str
    folders: dict[str, str]
    names: dict[str, list[str]]
    unread: list[str]


def arrange(path: str, names: Sequence[str]) -> Layout:
    """Determine the layout of a folder from the names of its images.

    Args:
        path: data.path, for messages.
        names: The sorted names of the images, relative to data.path.

    Raises:
        UserError: If there is only one part of a split, or more than one folder for a part.
    """
    base, (every,) = _unwrap([list(names)])
    folders = _split(path, sorted({first(name) for name in every} - {""}))
    if not folders:
        _refuse_split_in_class(path, base, every)
        return Layout(base, {}, dict.fromkeys(PARTS, every), [])
    inside = {part: _below(folder, every) for part, folder in folders.items()}
    unread = [name for name in every if first(name) not in folders.values()]
    wrapper, unwrapped = _unwrap(list(inside.values()))
    folders = {part: f"{folder}/{wrapper}".rstrip("/") for part, folder in folders.items()}
    return Layout(base, folders, dict(zip(inside, unwrapped, strict=True)), unread)


def first(name: str) -> str:
    """Return the first folder of a path; '' if it has none."""
    folder, _, rest = name.partition("/")
    return folder if rest else ""


def classes(layout: Layout) -> tuple[list[str], str]:
    """Return (the sorted names of the class folders of both parts, ''), or ([], the reason) if there are none."""
    for part, inside in layout.names.items():
        loose = [name for name in inside if not first(name)]
        if loose:
            where = f"{layout.folders[part]}/" if layout.folders else ""
            return [], f"{len(loose):,} images, such as {where}{loose[0]}, are not in a class folder"
    return sorted({first(name) for inside in layout.names.values() for name in inside}), ""


def _unwrap(parts: list[list[str]]) -> tuple[str, list[list[str]]]:
    """Remove the leading folders that all images share: they are not classes, but their subfolders can be.

    The innermost folder of an image and the folders of a split are kept.

    Returns:
        The removed prefix and the remaining names of each part.
    """
    wrapper = ""
    while True:
        tops = {first(name) for names in parts for name in names}
        top = next(iter(tops))
        deep = all(name.count("/") > 1 for names in parts for name in names)
        if len(tops) != 1 or not deep or part_of(top):
            return wrapper, parts
        wrapper += f"{top}/"
        parts = [_below(top, names) for names in parts]


def _below(folder: str, names: Sequence[str]) -> list[str]:
    """Return the names of the images in `folder`, relative to it."""
    return [name[len(folder) + 1 :] for name in names if first(name) == folder]


def part_of(folder: str) -> str:
    """Return the part, 'train' or 'test', that a folder's name denotes; '' for other names."""
    return next((p for p, ways in _SPELLINGS.items() if any(way.fullmatch(folder) for way in ways)), "")


def _split(path: str, folders: Sequence[str]) -> dict[str, str]:
    """Return the folder of each part; {} if there is no split."""
    found: dict[str, str] = {}
    for part, ways in _SPELLINGS.items():
        same = next((same for way in ways if (same := [f for f in folders if way.fullmatch(f)])), [])
        if len(same) > 1:
            raise UserError(
                f"data.path={path!r} has {' and '.join(f'{f}/' for f in same)}, and only one of them can be its "
                f"{part} split; move the other elsewhere"
            )
        if same:
            found[part] = same[0]
    if len(found) == 1:
        missing = next(part for part in PARTS if part not in found)
        spelled = {"train": "train/", "test": "test/ (or val/)"}[missing]
        raise UserError(
            f"data.path={path!r} has {next(iter(found.values()))}/ but no {spelled} with images; add it, or set "
            "data.path to a folder that has all images, so that a tenth is held out"
        )
    return found


def _refuse_split_in_class(path: str, base: str, names: Sequence[str]) -> None:
    """Raise UserError if a folder that would be a class contains a training and a test split."""
    seen: dict[str, set[str]] = {}
    for name in names:
        top, _, rest = name.partition("/")
        if (part := part_of(first(rest))) and top not in seen.setdefault(part, set()):
            seen[part].add(top)
    both = sorted(set.intersection(*(seen.get(part, set()) for part in PARTS)))
    if both:
        inside = "/".join([path.rstrip("/"), base + both[0]])
        raise UserError(
            f"data.path={path!r} has a training and a test split inside {base}{both[0]}/, whose images would be mixed; "
            f"set --config.data.path={inside!r}"
        )
