"""Reading of MNIST's idx files, gzipped or not."""

from __future__ import annotations

import gzip
import zlib

import numpy as np
from etils import epath

from vdm_jax.data.paths import file_hash
from vdm_jax.data.sources import Arrays
from vdm_jax.errors import UserError

_STEMS = {"train": "train", "test": "t10k"}


def _find(folder: epath.Path, part: str, kind: str) -> epath.Path | None:
    """Return the file of `kind` 'images-idx3' or 'labels-idx1' in `folder`, gzipped or not, or None."""
    stem = _STEMS[part]
    for name in (f"{stem}-{kind}-ubyte", f"{stem}-{kind.replace('-idx', '.idx')}-ubyte"):
        for suffix in ("", ".gz"):
            if (folder / (name + suffix)).exists():
                return folder / (name + suffix)
    return None


def decode(path: epath.Path) -> np.ndarray:
    """Read the uint8 array of an idx file, LeCun's format for MNIST.

    Raises:
        UserError: If the file is incomplete or damaged.
    """
    data = path.read_bytes()
    try:
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        if data[:3] != b"\x00\x00\x08":
            raise ValueError("it does not start like an idx file of bytes")
        header = 4 + 4 * data[3]
        return np.frombuffer(data, np.uint8, offset=header).reshape(np.frombuffer(data[4:header], ">i4"))
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise UserError(f"{path} is not a complete idx file ({error}); download it again") from error


def read(part: str, folder: epath.Path) -> tuple[Arrays, str] | None:
    """Read the images [N, H, W, 1] and labels [N] in `folder`.

    Returns:
        The source and its version, or None if the images aren't there. If the labels can't be read, the source has no
        labels and keeps the reason.

    Raises:
        UserError: If the file of the images is incomplete or damaged.
    """
    images_path = _find(folder, part, "images-idx3")
    labels_path = _find(folder, part, "labels-idx1")
    if images_path is None:
        return None
    images = decode(images_path)
    labels, problem = _labels(labels_path, len(images)) if labels_path is not None else (None, "")
    version = f"idx:{images_path.name}:{file_hash(images_path)}"
    return Arrays(images[..., None], labels, problem), version


def _labels(path: epath.Path, count: int) -> tuple[np.ndarray | None, str]:
    """Return (labels uint8 [N], ''), or (None, the reason) if they can't be used."""
    try:
        labels = decode(path)
    except UserError as error:
        return None, str(error)
    if labels.shape != (count,):
        return None, f"{path} has {len(labels)} labels for {count} images; download both again"
    return labels, ""
