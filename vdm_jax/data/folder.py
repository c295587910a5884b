"""A folder of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from vdm_jax.data import layout, say
from vdm_jax.data import resize as resizing
from vdm_jax.data.decode import IMAGE_SUFFIXES, sizes
from vdm_jax.data.layout import Layout
from vdm_jax.data.listing import File, Listing, digest, scan
from vdm_jax.data.paths import SPLIT_SEED, existing, split_indices
from vdm_jax.data.sources import Files, open_files
from vdm_jax.errors import UserError


class Labels(NamedTuple):
    """values: int [N], or None and why there are none; names: of the classes, in the order of their numbers."""

    values: np.ndarray | None
    missing: str
    names: list[str]


def read(
    part: str, path: str, shape: Sequence[int] | None, resize: str = "", known: Sequence[str] = ()
) -> tuple[Files, str]:
    """All images under data.path, grey or RGB as data.shape says (RGB where it says nothing), of one size or resized.

    With subfolders train and test, or other spellings of these (`layout`), these are the split; otherwise the files,
    sorted by name, are split 90/10 by a fixed seed. Where all images of a part lie in subfolders of it these are the
    classes, numbered by name over both parts. Training files are permuted by that seed too, since names often
    follow classes and the last tenth of them is for tuning. resize: data.resize. known: suffixes of files that
    the caller reads.
    """
    if shape and (len(shape) != 3 or shape[-1] not in (1, 3)):
        raise UserError(
            f"data.shape={tuple(shape)} can't be read from image files; use (height, width, 1) for grey "
            "or (height, width, 3) for RGB"
        )
    fit = resizing.make(resize, "folder", shape)
    root = existing(path, "a folder of images, with or without subfolders train and test")
    found, laid = _find(root, path, known)
    base = "/".join(filter(None, (str(root), laid.base.rstrip("/"), laid.folders.get(part, ""))))
    files = _files(found, laid, part)
    labels = _labels(laid, part)
    contents = digest(base, files, labels.names)  # labels depend on the classes of both parts
    order, how = _order(laid, part, len(files), path)
    source = open_files(
        [f"{base}/{files[i].name}" for i in order],
        int(shape[-1]) if shape else 3,
        None if labels.values is None else labels.values[order],
        fit,
    )
    names = digest("", files, names_only=True)
    listed: dict[str, int | str] = {"files": len(files), "bytes": sum(file.size for file in files), "names": names}
    source = dataclasses.replace(
        source, listed=listed, no_labels=labels.missing, class_names=dict(enumerate(labels.names))
    )
    if fit:
        source, how = _say_what_is_resized(source, fit, path), f"{how}, resize {resize}"
    return source, f"folder:{root.name}:{contents} {how}"


def _find(root: epath.Path, path: str, known: Sequence[str]) -> tuple[Listing, Layout]:
    """What lies in the folder, and how; says what of it is not read."""
    if not root.is_dir():
        raise UserError(f"data.path={path!r} is a file; it should be a folder of images")
    found = scan(root)
    for suffix in known:
        found.left_out.pop(suffix, None)
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in found.left_out.most_common(5))
    others = f"files of other suffixes: {kinds}; image files are {', '.join(IMAGE_SUFFIXES)}"
    if not found.images:
        raise UserError(
            f"data.path={path!r} has no images in {root}; it should hold PNG or JPEG files"
            + (f" (it has {others})" if kinds else "")
        )
    laid = layout.arrange(path, [file.name for file in found.images])
    where = f"data.path={path!r}"
    if kinds:
        say.once(f"{where}: not read are {sum(found.left_out.values()):,} {others}")
    if found.loops:
        say.once(f"{where}: not followed are {len(found.loops)} links to folders they lie in, such as {found.loops[0]}")
    if laid.base:
        say.once(f"{where}: all images lie in {laid.base}, whose own folders are taken for the split or the classes")
    if laid.unread:
        folders = ", ".join(sorted({f"{layout.first(name)}/" for name in laid.unread})[:5])
        say.once(
            f"{where}: {' and '.join(f'{f}/' for f in laid.folders.values())} are its training and test images; not "
            f"read are {len(laid.unread):,} images elsewhere ({folders})"
        )
    return found, laid


def _files(found: Listing, laid: Layout, part: str) -> list[File]:
    """The images of a part, named as within it."""
    prefix = laid.base + (f"{laid.folders[part]}/" if laid.folders else "")
    inside = [file for file in found.images if file.name.startswith(prefix)]
    return [File(file.name[len(prefix) :], file.size) for file in inside]


def _labels(laid: Layout, part: str) -> Labels:
    names, missing = layout.classes(laid)
    if missing:
        return Labels(None, missing, [])
    number = {name: k for k, name in enumerate(names)}
    return Labels(np.array([number[layout.first(name)] for name in laid.names[part]]), "", names)


def _order(laid: Layout, part: str, count: int, path: str) -> tuple[np.ndarray, str]:
    """Indices of the part's files in the order of its records, and what was done, in words."""
    if laid.folders:
        shuffled = part == "train"
        order = np.random.default_rng(SPLIT_SEED).permutation(count) if shuffled else np.arange(count)
        return order, f"{part}/"
    order = split_indices(count, part)
    if len(order) == 0:
        raise UserError(f"data.path={path!r} has {count} images, too few to hold out a tenth; add some")
    return order, f"split 90/10 seed {SPLIT_SEED}"


def _say_what_is_resized(source: Files, fit: resizing.Resize, path: str) -> Files:
    """Says how many images are resized; the source then knows what decoding costs."""
    seen = sizes(source.paths)
    say.once(f"data.path={path!r}, {resizing.in_words(fit, seen, len(source))}")
    mean = sum(height * width for height, width in seen) // max(len(seen), 1)
    return dataclasses.replace(source, cost=mean * source.shape[-1])
