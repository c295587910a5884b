"""A folder of images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from etils import epath

from vdm_jax.data.paths import SPLIT_SEED, existing, split_indices
from vdm_jax.data.sources import Source, list_images, open_files
from vdm_jax.errors import UserError


def read(part: str, path: str, shape: Sequence[int] | None) -> tuple[Source, str]:
    """All images under data.path, of one size, grey or RGB as data.shape says (RGB where it says nothing).

    With subfolders train and test these are the split; otherwise the files, sorted by name, are
    split 90/10 by a fixed seed. Where all images of a part lie in subfolders of it these are the classes, numbered
    by name over both parts. Training files are permuted by that seed too, since names often
    follow classes and the last tenth of them is for tuning.
    """
    if shape and (len(shape) != 3 or shape[-1] not in (1, 3)):
        raise UserError(
            f"data.shape={tuple(shape)} can't be read from image files; use (height, width, 1) for grey "
            "or (height, width, 3) for RGB"
        )
    channels = int(shape[-1]) if shape else 3
    root = existing(path, "a folder of images, with or without subfolders train and test")
    parts = {name: root / name for name in ("train", "test") if (root / name).exists()}
    if len(parts) == 1:
        missing = ({"train", "test"} - parts.keys()).pop()
        raise UserError(f"data.path={path!r} has {next(iter(parts))}/ but no {missing}/; add it")
    base = parts.get(part, root)
    files = list_images(base)
    if not files:
        raise UserError(f"data.path={path!r} has no images in {base}; it should hold PNG or JPEG files")
    inside = [file.removeprefix(str(base)) for file in files]
    classes = _classes([inside if place == base else _inside(place) for place in parts.values()] or [inside])
    names = "\n".join([*inside, *(classes or ())])  # labels depend on the classes of both parts
    version = f"folder:{root.name}:{hashlib.sha256(names.encode()).hexdigest()[:12]}"
    if parts:
        order = np.arange(len(files))
        if part == "train":
            order = np.random.default_rng(SPLIT_SEED).permutation(len(files))
        version = f"{version} {part}/"
    else:
        order = split_indices(len(files), part)
        version = f"{version} split 90/10 seed {SPLIT_SEED}"
    if len(order) == 0:
        raise UserError(f"data.path={path!r} has {len(files)} images, too few to hold out a tenth; add some")
    labels = None if classes is None else np.array([classes.index(_folder(path)) for path in inside])
    return open_files([files[i] for i in order], channels, None if labels is None else labels[order]), version


def _inside(place: epath.Path) -> list[str]:
    """Paths of all images of a part within it."""
    return [file.removeprefix(str(place)) for file in list_images(place)]


def _folder(path: str) -> str:
    """The subfolder that a path within its part begins with; '' for none."""
    first, _, rest = path.strip("/").partition("/")
    return first if rest else ""


def _classes(parts: Sequence[Sequence[str]]) -> list[str] | None:
    """Names of the subfolders that hold images, over all parts, sorted; None if an image lies in no subfolder."""
    names = sorted({_folder(path) for part in parts for path in part})
    return None if "" in names else names
