"""Data sets that ship with the package: digits, swirl, and gaussians25.

A reader is a function `(part, path, shape) -> (source, version)`. `part` is 'train' or 'test', `path` is data.path,
and `shape` is data.shape if the user set it. `version` identifies the exact bytes that were read.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence

import numpy as np

from vdm_jax.data.padding import halved
from vdm_jax.data.paths import SPLIT_SEED, refuse_path
from vdm_jax.data.sources import Arrays

DIGITS_TRAIN = 1500
DIGITS_VOCABULARY = 17
SWIRL_SIZES = {"train": 20_000, "test": 5_000}


def digits(part: str, path: str, shape: Sequence[int] | None) -> tuple[Arrays, str]:
    """Read the 1,797 handwritten digits of scikit-learn.

    The data are the test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, UCI Machine
    Learning Repository, 1998, CC BY 4.0). `np.random.default_rng(0).permutation` shuffles scikit-learn's order before
    the split.

    Args:
        part: 'train' for the first 1,500 digits, 'test' for the other 297.
        path: data.path, which must be empty.
        shape: (4, 4, 1) for averages of 2 × 2 pixels, rounded; other shapes are ignored.

    Returns:
        The source of uint8 images [8, 8, 1] or [4, 4, 1] with values 0 to 16 and with labels, and its version.

    Raises:
        UserError: If `path` is not empty.
    """
    refuse_path("digits", path)
    with importlib.resources.files("vdm_jax.data").joinpath("digits.npz").open("rb") as file:
        arrays = np.load(file)
        images, labels = arrays["images"], arrays["labels"]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    chosen = order[:DIGITS_TRAIN] if part == "train" else order[DIGITS_TRAIN:]
    version = "uci-optdigits-test (scikit-learn order) 1,500/297"
    if shape is not None and tuple(shape) == (4, 4, 1):
        images, version = halved(images), f"halved, {version}"
    return Arrays(images[chosen], labels[chosen]), version


def swirl_points(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw points of a noisy spiral: r (cos r, sin r) + N(0, 1/4) with r uniform between 3π/2 and 9π/2.

    Returns:
        The points, float64 [count, 2].
    """
    r = 1.5 * np.pi * (1.0 + 2.0 * rng.random(count))
    spiral = np.stack([r * np.cos(r), r * np.sin(r)], axis=-1)
    return spiral + 0.5 * rng.standard_normal((count, 2))


def swirl(part: str, path: str, shape: Sequence[int] | None) -> tuple[Arrays, str]:
    """Read the 2-D swirl as float32 points [2].

    The training and test points are independent draws. The mean and standard deviation of the training points
    standardize both.

    Raises:
        UserError: If `path` is not empty.
    """
    refuse_path("swirl", path)
    train = swirl_points(np.random.default_rng([SPLIT_SEED, 0]), SWIRL_SIZES["train"])
    draw = train
    if part == "test":
        draw = swirl_points(np.random.default_rng([SPLIT_SEED, 1]), SWIRL_SIZES["test"])
    points = (draw - train.mean(axis=0)) / train.std(axis=0)
    return Arrays(points.astype(np.float32)), "spiral, noise 0.5, seed 0, 20,000/5,000"


GAUSSIANS_SIZES = {"train": 50_000, "test": 10_000}
GAUSSIANS_SCALE = 2.828  # the scale of the toy data of WGAN-GP (Gulrajani et al. 2017)
GAUSSIANS_DEVIATION = 0.05 / GAUSSIANS_SCALE


def gaussians25_centers() -> np.ndarray:
    """Return the means of the 25 Gaussians, [25, 2]: the grid {−4, −2, 0, 2, 4}² divided by 2.828."""
    line = np.arange(-4, 5, 2) / GAUSSIANS_SCALE
    return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)


def gaussians25(part: str, path: str, shape: Sequence[int] | None) -> tuple[Arrays, str]:
    """Read points of 25 equally likely Gaussians on a grid as float32 [2], each labeled with its Gaussian's number.

    The standard deviation of each Gaussian is 0.05/2.828.

    Raises:
        UserError: If `path` is not empty.
    """
    refuse_path("gaussians25", path)
    rng, count = np.random.default_rng([SPLIT_SEED, int(part == "test")]), GAUSSIANS_SIZES[part]
    label = rng.integers(25, size=count)
    points = gaussians25_centers()[label] + GAUSSIANS_DEVIATION * rng.standard_normal((count, 2))
    return Arrays(points.astype(np.float32), label), "5 × 5 of deviation .05, over 2.828, seed 0, 50,000/10,000"
