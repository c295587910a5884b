"""Reading of data sets in `.npz` files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
from etils import epath

from vdm_jax.data.layout import part_of
from vdm_jax.data.paths import SPLIT_SEED, existing, file_hash, split_indices
from vdm_jax.data.sources import Arrays
from vdm_jax.errors import UserError

_UNSPLIT = {"x": ("x", "images"), "y": ("y", "labels")}
_CHANNELS = (1, 3, 4)


def read(part: str, path: str, shape: Sequence[int] | None) -> tuple[Arrays, str]:
    """Read an `.npz` file.

    The file has images x_train and x_test (or x_val), or x (or images), which a fixed seed splits 90/10. Images are
    uint8 [N, H, W] or [N, H, W, C]; points are float32 or float64 [N, D]. Optional labels are y_train and y_test, or y
    (or labels), integers [N] or [N, 1]. Invalid labels are an error only when a model needs labels.

    Args:
        part: 'train' or 'test'.
        path: data.path, the file.
        shape: Ignored.

    Raises:
        UserError: If the file is missing or unreadable, or lacks the arrays.
    """
    file = existing(path, "an .npz file with the arrays x_train and x_test, or x")
    try:
        version = f"npz:{file.name}:{file_hash(file)}"
        with file.open("rb") as stream:
            arrays = np.load(stream, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array; save it with np.savez(path, x=array)")
            source, made_here = _pick_arrays(arrays, part, file.name)
    except UserError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"data.path={path!r} is not a readable .npz file ({error}); write it again") from error
    return source, version + (f" split 90/10 seed {SPLIT_SEED}" if made_here else "")


def count(file: epath.Path) -> int:
    """How many images an unsplit file holds, from the header of their array."""
    with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        key = next(key for key in _UNSPLIT["x"] if f"{key}.npy" in archive.namelist())
        with archive.open(f"{key}.npy") as array:
            read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            shape: tuple[int, ...] = read[np.lib.format.read_magic(array)[0]](array)[0]
            return shape[0]


def _pick_arrays(arrays: np.lib.npyio.NpzFile, part: str, name: str) -> tuple[Arrays, bool]:
    """Return the records of `part`, and whether this function split the arrays."""
    split = {role: key for role in ("train", "test") if (key := _key(arrays, "x", role, name))}
    images_key = split.get(part) or (None if split else _key(arrays, "x", "", name))
    if images_key is None:
        missing = f"no x_{part} to go with {next(iter(split.values()))}" if split else f"neither x_{part} nor x"
        raise UserError(
            f"{name} contains {', '.join(arrays.files) or 'no arrays'}, and {missing}; "
            "save it with np.savez(path, x_train=…, x_test=…)"
        )
    images = _as_records(arrays[images_key], f"{images_key} of {name}")
    labels_key = _key(arrays, "y", part if split else "", name)
    labels, problem = _as_labels(arrays, labels_key, len(images), name) if labels_key else (None, "")
    if split:
        return Arrays(images, labels, problem), False
    chosen = split_indices(len(images), part)
    return Arrays(images[chosen], None if labels is None else labels[chosen], problem), True


def _key(arrays: np.lib.npyio.NpzFile, kind: str, part: str, name: str) -> str | None:
    """Return the name of the array 'x' or 'y' (`kind`) of a part, or of both parts if `part` is ''; None if absent."""
    if not part:
        return next((key for key in _UNSPLIT[kind] if key in arrays), None)
    spelled = {key: key[2:] for key in arrays.files if key[:2].lower() == f"{kind}_" and part_of(key[2:]) == part}
    exact = f"{kind}_{part}"
    if exact in spelled or not spelled:
        return exact if spelled else None
    if len(spelled) > 1:
        raise UserError(f"{name} contains {' and '.join(spelled)}; save the one to use as {exact}")
    return next(iter(spelled))


def _as_labels(arrays: np.lib.npyio.NpzFile, key: str, count: int, name: str) -> tuple[np.ndarray | None, str]:
    """Return (labels int [N], ''), or (None, the reason) if they can't be used."""
    try:
        labels = arrays[key]
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        return None, f"{key} of {name} can't be read: {error}"
    if labels.dtype.kind in "iu" and labels.shape in ((count,), (count, 1)):
        return labels.reshape(count), ""
    return None, f"{key} of {name} is {labels.dtype} {labels.shape}; it must be {count} integers"


def _as_records(array: np.ndarray, where: str) -> np.ndarray:
    """Convert an array to images uint8 [N, H, W, C] or points float32 [N, D], or raise UserError."""
    if array.ndim == 4 and array.shape[1] in _CHANNELS and array.shape[3] not in _CHANNELS and array.shape[2] > 4:
        raise UserError(
            f"{where} is {array.dtype} {array.shape}, with channels before height and width; save "
            "array.transpose(0, 2, 3, 1), which is (N, H, W, C)"
        )
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        return array[..., None] if array.ndim == 3 else array
    if array.dtype in (np.float32, np.float64) and array.ndim == 2:
        return array.astype(np.float32)
    raise UserError(
        f"{where} is {array.dtype} {array.shape}; images must be uint8 (N, H, W) or (N, H, W, C), points float32 (N, D)"
    )
