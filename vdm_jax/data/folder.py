"""A folder of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from vdm_jax.data import layout, messages
from vdm_jax.data import resize as resizing
from vdm_jax.data.decode import IMAGE_SUFFIXES, sizes
from vdm_jax.data.layout import Layout
from vdm_jax.data.listing import File, Listing, digest, scan
from vdm_jax.data.paths import SPLIT_SEED, existing, split_indices
from vdm_jax.data.sources import Files, open_files
from vdm_jax.errors import UserError


class Labels(NamedTuple):
    """The labels of a part.

    Attributes:
        values: int [N], or None if there are no labels.
        missing: The reason if there are no labels.
        names: The names of the classes, in the order of their numbers.
    """

    values: np.ndarray | None
    missing: str
    names: list[str]


def read(
    part: str, path: str, shape: Sequence[int] | None, resize: str = "", known: Sequence[str] = ()
) -> tuple[Files, str]:
    """Read all images under data.path.

    Subfolders named train and test, or with other spellings of these names (`layout`), define the split. Without
    them, the files are sorted by name and split 90/10 with a fixed seed. If all images of a part are in subfolders,
    the subfolders are the classes, numbered by name over both parts. Training files are permuted with the same seed,
    because names often follow classes and the last tenth is used for tuning.

    Args:
        part: 'train' or 'test'.
        path: data.path, on disk or in a bucket.
        shape: data.shape; (height, width, 1) reads gray images, (height, width, 3) or None reads RGB images.
        resize: data.resize; with '', all images must have one size.
        known: Suffixes of other files that the caller reads.

    Returns:
        The source and its version, which depends on the names, sizes, and sampled contents of the files.

    Raises:
        UserError: If the folder is missing, has no images, or has an ambiguous layout.
    """
    if shape and (len(shape) != 3 or shape[-1] not in (1, 3)):
        raise UserError(
            f"data.shape={tuple(shape)} can't be read from image files; use (height, width, 1) for gray "
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
    """List the files of a folder and determine their layout; log which files are not read."""
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
        messages.once(f"{where}: skipped {sum(found.left_out.values()):,} {others}")
    if found.loops:
        messages.once(
            f"{where}: skipped {len(found.loops)} links to folders that contain them, such as {found.loops[0]}"
        )
    if laid.base:
        messages.once(f"{where}: all images are in {laid.base}, so its folders are used as the split or the classes")
    if laid.unread:
        folders = ", ".join(sorted({f"{layout.first(name)}/" for name in laid.unread})[:5])
        messages.once(
            f"{where}: {' and '.join(f'{f}/' for f in laid.folders.values())} are its training and test images; "
            f"skipped {len(laid.unread):,} images elsewhere ({folders})"
        )
    return found, laid


def _files(found: Listing, laid: Layout, part: str) -> list[File]:
    """Return the images of a part, with names relative to the part's folder."""
    prefix = laid.base + (f"{laid.folders[part]}/" if laid.folders else "")
    inside = [file for file in found.images if file.name.startswith(prefix)]
    return [File(file.name[len(prefix) :], file.size) for file in inside]


def _labels(laid: Layout, part: str) -> Labels:
    """Return the labels of a part: the numbers of its class folders."""
    names, missing = layout.classes(laid)
    if missing:
        return Labels(None, missing, [])
    number = {name: k for k, name in enumerate(names)}
    return Labels(np.array([number[layout.first(name)] for name in laid.names[part]]), "", names)


def _order(laid: Layout, part: str, count: int, path: str) -> tuple[np.ndarray, str]:
    """Return the indices of the part's files in the order of its records, and a description of the split."""
    if laid.folders:
        shuffled = part == "train"
        order = np.random.default_rng(SPLIT_SEED).permutation(count) if shuffled else np.arange(count)
        return order, f"{part}/"
    order = split_indices(count, part)
    if len(order) == 0:
        raise UserError(f"data.path={path!r} has {count} images, too few to hold out a tenth; add some")
    return order, f"split 90/10 seed {SPLIT_SEED}"


def _say_what_is_resized(source: Files, fit: resizing.Resize, path: str) -> Files:
    """Log how many images are resized, and return the source with the cost of decoding one record."""
    seen = sizes(source.paths)
    messages.once(f"data.path={path!r}, {resizing.in_words(fit, seen, len(source))}")
    mean = sum(height * width for height, width in seen) // max(len(seen), 1)
    return dataclasses.replace(source, cost=mean * source.shape[-1])
