"""Data sets that fit in memory and come without images on disk: digits, swirl, gaussians25 and `.npz` files.

A reader is `(part, path, shape) -> (source, version)`: `part` is 'train' or 'test', `path` is
data.path, `shape` is data.shape where the user gave it. `version` says exactly which bytes were
read.
"""

from __future__ import annotations

import importlib.resources
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from vdm_jax.data.paths import SPLIT_SEED, existing, file_hash, refuse_path, split_indices
from vdm_jax.data.sources import Arrays
from vdm_jax.errors import UserError

DIGITS_TRAIN = 1500
DIGITS_VOCABULARY = 17
SWIRL_SIZES = {"train": 20_000, "test": 5_000}


def digits(part: str, path: str, shape: Sequence[int] | None) -> tuple[Arrays, str]:
    """The 1,797 handwritten digits of scikit-learn: uint8 [8, 8, 1], values 0 to 16, with labels.

    The test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, UCI
    Machine Learning Repository, 1998, CC BY 4.0), in scikit-learn's order, then
    `np.random.default_rng(0).permutation`.
    """
    refuse_path("digits", path)
    with importlib.resources.files("vdm_jax.data").joinpath("digits.npz").open("rb") as file:
        arrays = np.load(file)
        images, labels = arrays["images"], arrays["labels"]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    chosen = order[:DIGITS_TRAIN] if part == "train" else order[DIGITS_TRAIN:]
    return Arrays(images[chosen], labels[chosen]), "uci-optdigits-test (scikit-learn order) 1,500/297"


def swirl_points(rng: np.random.Generator, count: int) -> np.ndarray:
    """A noisy spiral, [count, 2]: r (cos r, sin r) + N(0, 1/4), r uniform from 3π/2 to 9π/2."""
    r = 1.5 * np.pi * (1.0 + 2.0 * rng.random(count))
    spiral = np.stack([r * np.cos(r), r * np.sin(r)], axis=-1)
    return spiral + 0.5 * rng.standard_normal((count, 2))


def swirl(part: str, path: str, shape: Sequence[int] | None) -> tuple[Arrays, str]:
    """The 2-D swirl: float32 [2]. Independent draws, both standardised by that for training."""
    refuse_path("swirl", path)
    train = swirl_points(np.random.default_rng([SPLIT_SEED, 0]), SWIRL_SIZES["train"])
    draw = train
    if part == "test":
        draw = swirl_points(np.random.default_rng([SPLIT_SEED, 1]), SWIRL_SIZES["test"])
    points = (draw - train.mean(axis=0)) / train.std(axis=0)
    return Arrays(points.astype(np.float32)), "spiral, noise 0.5, seed 0, 20,000/5,000"


GAUSSIANS_SIZES = {"train": 50_000, "test": 10_000}
GAUSSIANS_SCALE = 2.828  # of the toy data of WGAN-GP (Gulrajani et al. 2017)
GAUSSIANS_DEVIATION = 0.05 / GAUSSIANS_SCALE


def gaussians25_centres() -> np.ndarray:
    """The means of the 25 Gaussians, [25, 2]: the grid {−4, −2, 0, 2, 4}² over 2.828."""
    line = np.arange(-4, 5, 2) / GAUSSIANS_SCALE
    return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)


def gaussians25(part: str, path: str, shape: Sequence[int] | None) -> tuple[Arrays, str]:
    """25 Gaussians of deviation .05/2.828 on a grid, equally likely: float32 [2], labelled by their number."""
    refuse_path("gaussians25", path)
    rng, count = np.random.default_rng([SPLIT_SEED, int(part == "test")]), GAUSSIANS_SIZES[part]
    label = rng.integers(25, size=count)
    points = gaussians25_centres()[label] + GAUSSIANS_DEVIATION * rng.standard_normal((count, 2))
    return Arrays(points.astype(np.float32), label), "5 × 5 of deviation .05, over 2.828, seed 0, 50,000/10,000"


def npz(part: str, path: str, shape: Sequence[int] | None) -> tuple[Arrays, str]:
    """An `.npz` file with x_train and x_test, or with x (or images), split 90/10 by a fixed seed.

    Images are uint8 [N, H, W] or [N, H, W, C]; points are float32 or float64 [N, D]. Labels, if
    any, are y_train and y_test, or y (or labels).
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


def _pick_arrays(arrays: np.lib.npyio.NpzFile, part: str, name: str) -> tuple[Arrays, bool]:
    """The records of `part`, and whether the split was made here."""
    if f"x_{part}" in arrays:
        keys: tuple[str | None, ...] = (f"x_{part}", f"y_{part}")
    else:
        keys = tuple(next((k for k in pair if k in arrays), None) for pair in (("x", "images"), ("y", "labels")))
    if keys[0] is None:
        raise UserError(
            f"{name} holds {', '.join(arrays.files) or 'nothing'}, and neither x_{part} nor x; "
            f"save it with np.savez(path, x_train=…, x_test=…)"
        )
    images = _as_records(arrays[keys[0]], f"{keys[0]} of {name}")
    labels = arrays[keys[1]] if keys[1] is not None and keys[1] in arrays else None
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
        raise UserError(f"{keys[1]} of {name} is {labels.dtype} {labels.shape}; it must be {len(images)} integers")
    if keys[0] == f"x_{part}":
        return Arrays(images, labels), False
    chosen = split_indices(len(images), part)
    return Arrays(images[chosen], None if labels is None else labels[chosen]), True


def _as_records(array: np.ndarray, where: str) -> np.ndarray:
    """uint8 [N, H, W, C] or float32 [N, D], or UserError."""
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        return array[..., None] if array.ndim == 3 else array
    if array.dtype in (np.float32, np.float64) and array.ndim == 2:
        return array.astype(np.float32)
    raise UserError(
        f"{where} is {array.dtype} {array.shape}; images must be uint8 (N, H, W) or (N, H, W, C), points float32 (N, D)"
    )
