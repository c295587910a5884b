"""Lists of the image files of a folder, on disk or in a bucket."""

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

# Folders that operating systems and tools create; those whose names start with a dot are hidden anyway.
_SYSTEM = {"__macosx", "$recycle.bin", "system volume information", "lost+found", "@eadir", "__pycache__"}
SAMPLED = 256  # the number of files whose contents are hashed
_SAMPLED_BYTES = 2**16  # the number of bytes that are hashed of each
_READERS = 16


class File(NamedTuple):
    """A file: its path relative to the folder, with '/', and its size in bytes."""

    name: str
    size: int


class Listing(NamedTuple):
    """The files of a folder.

    Attributes:
        root: The folder.
        images: The image files, sorted by name.
        left_out: The number of files with each other suffix.
        loops: The links to folders that contain them.
    """

    root: str
    images: list[File]
    left_out: Counter[str]
    loops: list[str]


def is_image(name: str) -> bool:
    """Return whether a path within a folder or archive names an image; hidden files are excluded."""
    return not is_hidden(name) and name.lower().endswith(IMAGE_SUFFIXES)


def is_hidden(name: str) -> bool:
    """Return whether a component of a path starts with a dot (as macOS and notebooks create) or is a system folder."""
    return any((p.startswith(".") and p not in (".", "..")) or p.lower() in _SYSTEM for p in name.split("/"))


def scan(folder: epath.Path) -> Listing:
    """List all files under a folder, at any depth; links to folders are followed unless they form a loop.

    Raises:
        UserError: If a bucket can't be read.
    """
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
    """Yield the files that are not hidden, and add links that would form a loop to `loops`."""
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
    """Yield a path and all folders that contain it."""
    while True:
        yield path
        parent = os.path.dirname(path)
        if parent == path:
            return
        path = parent


def _size(entry: os.DirEntry[str]) -> int:
    """Return the size of a file in bytes; −1 for a broken link."""
    try:
        return entry.stat().st_size
    except OSError:  # a broken link: reading the file reports it
        return -1


def _in_bucket(root: str) -> Iterator[File]:
    """Yield the files that are not hidden, from one listing."""
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
    """Return 12 hex digits that identify the files: a hash of their names, sizes, and sampled contents, and of `extra`.

    Only the first bytes of SAMPLED files are read. The hash does not depend on the folder or on whether it is on disk
    or in a bucket. With `names_only`, only the names are hashed.
    """
    if names_only:
        return hashlib.sha256("\n".join(file.name for file in files).encode()).hexdigest()[:12]
    digested = hashlib.sha256("\n".join([*(f"{file.name}\0{file.size}" for file in files), *extra]).encode())
    with ThreadPoolExecutor(_READERS if "://" in root else 1) as pool:
        for start in pool.map(lambda file: _start(f"{root}/{file.name}"), _spread(files, SAMPLED)):
            digested.update(hashlib.sha256(start).digest())
    return digested.hexdigest()[:12]


def _spread(files: Sequence[File], most: int) -> list[File]:
    """Return at most `most` of the files, evenly spread."""
    return [files[k] for k in np.unique(np.linspace(0, len(files) - 1, min(len(files), most)).astype(int))]


def _start(path: str) -> bytes:
    """Return the first bytes of a file; b'' if it can't be read, which decoding it reports later."""
    try:
        if "://" in path:
            system, inside = fsspec.core.url_to_fs(path)
            return bytes(system.cat_file(inside, start=0, end=_SAMPLED_BYTES))
        with open(path, "rb") as file:
            return file.read(_SAMPLED_BYTES)
    except OSError:
        return b""
