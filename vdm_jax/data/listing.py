"""The image files of a folder, on a disk or in a bucket."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import fsspec
import numpy as np
from etils import epath

from vdm_jax.data.decode import IMAGE_SUFFIXES
from vdm_jax.errors import UserError

# Folders that systems and tools leave behind; those of a name with a dot are hidden anyway.
_SYSTEM = {"__macosx", "$recycle.bin", "system volume information", "lost+found", "@eadir", "__pycache__"}
SAMPLED = 256  # files whose contents are looked at
_SAMPLED_BYTES = 2**16  # of each
_READERS = 16


class File(NamedTuple):
    """name: its path within the folder, with '/'; size: in bytes."""

    name: str
    size: int


class Listing(NamedTuple):
    """images: sorted by name. left_out: how many files have which other suffix. loops: links that lead back."""

    root: str
    images: list[File]
    left_out: Counter[str]
    loops: list[str]


def is_image(name: str) -> bool:
    """Whether a path within a folder or archive is an image's; hidden files and those of systems are not."""
    return not is_hidden(name) and name.lower().endswith(IMAGE_SUFFIXES)


def is_hidden(name: str) -> bool:
    """Whether any part of a path begins with a dot (as macOS and notebooks make them) or is a system's folder."""
    return any((p.startswith(".") and p not in (".", "..")) or p.lower() in _SYSTEM for p in name.split("/"))


def scan(folder: epath.Path) -> Listing:
    """All files under a folder, at any depth; links to folders are followed unless they lead back."""
    root, loops = str(folder), list[str]()
    files = _in_bucket(root) if "://" in root else _on_disk(root, loops)
    images, left_out = [], Counter[str]()
    for file in files:
        if file.name.lower().endswith(IMAGE_SUFFIXES):
            images.append(file)
        else:
            left_out[os.path.splitext(file.name)[1].lower() or "no suffix"] += 1
    return Listing(root, sorted(images), left_out, loops)


def _on_disk(root: str, loops: list[str]) -> Iterator[File]:
    """Files that are not hidden; adds the links to `loops` that would never end."""
    start = os.path.realpath(root)
    pending = [("", root, start, frozenset(_and_above(start)))]
    while pending:
        inside, path, place, above = pending.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                name = inside + entry.name
                if is_hidden(entry.name):
                    continue
                if not entry.is_dir():
                    yield File(name, _size(entry))
                    continue
                real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(place, entry.name)
                if real in above:
                    loops.append(name)
                else:
                    pending.append((f"{name}/", entry.path, real, above | {real}))


def _and_above(path: str) -> Iterator[str]:
    """A path and all that it lies in."""
    while True:
        yield path
        parent = os.path.dirname(path)
        if parent == path:
            return
        path = parent


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nothing: reading it says so
        return -1


def _in_bucket(root: str) -> Iterator[File]:
    """Files that are not hidden, by one listing."""
    try:
        system, path = fsspec.core.url_to_fs(root)
        found = system.find(path, detail=True)
    except (ImportError, OSError) as error:
        raise UserError(f"data.path={root!r} can't be read: {error}") from error
    base = path.rstrip("/") + "/"
    for name, about in found.items():
        inside = name.removeprefix(base)
        if not is_hidden(inside) and not inside.endswith("/"):
            yield File(inside, int(about.get("size") or 0))


def digest(root: str, files: Sequence[File], extra: Sequence[str] = (), *, names_only: bool = False) -> str:
    """12 hex digits of the files' names and sizes, the beginnings of SAMPLED of them, and `extra`.

    The same files in another folder, on a disk or in a bucket, have the same. names_only: nothing but the names.
    """
    if names_only:
        return hashlib.sha256("\n".join(file.name for file in files).encode()).hexdigest()[:12]
    found = hashlib.sha256("\n".join([*(f"{file.name}\0{file.size}" for file in files), *extra]).encode())
    with ThreadPoolExecutor(_READERS if "://" in root else 1) as pool:
        for start in pool.map(lambda file: _start(f"{root}/{file.name}"), _spread(files, SAMPLED)):
            found.update(hashlib.sha256(start).digest())
    return found.hexdigest()[:12]


def _spread(files: Sequence[File], most: int) -> list[File]:
    """At most so many of the files, evenly spread."""
    return [files[k] for k in np.unique(np.linspace(0, len(files) - 1, min(len(files), most)).astype(int))]


def _start(path: str) -> bytes:
    """The first bytes of a file; none of one that cannot be read, which reading it as an image will say."""
    try:
        if "://" in path:
            system, inside = fsspec.core.url_to_fs(path)
            return bytes(system.cat_file(inside, start=0, end=_SAMPLED_BYTES))
        with open(path, "rb") as file:
            return file.read(_SAMPLED_BYTES)
    except OSError:
        return b""
