"""Precision and recall of samples by nearest neighbours in features (Kynkäänniemi et al. 2019, arXiv:1904.06991).

A set of features stands for the union of balls around its points, each as large as the distance to the k-th nearest
other point of the set. Precision is the share of samples within the balls of the real images, recall the share of real
images within the balls of the samples. Both depend on how many there are of either: compare at equal numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BLOCK = 2**24  # numbers in memory at a time


class PrecisionRecall(NamedTuple):
    """covered: of each sample [N], whether it lies among the reference; reached: of each reference [M], by samples."""

    covered: np.ndarray
    reached: np.ndarray

    @property
    def precision(self) -> float:
        """The share of samples that could be real."""
        return float(self.covered.mean())

    @property
    def recall(self) -> float:
        """The share of the reference that could be samples."""
        return float(self.reached.mean())


def precision_recall(features: np.ndarray, reference: np.ndarray, k: int = 3) -> PrecisionRecall:
    """Of samples' features [N, D] and real images' [M, D]; more than k in each, in float64."""
    return PrecisionRecall(within(features, reference, k), within(reference, features, k))


def within(points: np.ndarray, manifold: np.ndarray, k: int = 3) -> np.ndarray:
    """Whether each of points [N, D] lies in the ball of some point of manifold [M, D], its edge included; bool [N].

    A point of the manifold is not its own neighbour, but equal ones are each other's.
    """
    points, manifold = np.asarray(points, np.float64), np.asarray(manifold, np.float64)
    if points.ndim != 2 or manifold.ndim != 2 or points.shape[1] != manifold.shape[1]:
        raise ValueError(f"features of shapes {points.shape} and {manifold.shape} are not of one space, [N, D]")
    if not 1 <= k < len(manifold):
        raise ValueError(f"{len(manifold)} features have no {k} neighbours each")
    # its own distance, 0, is the smallest of every row
    radii = np.concatenate([np.partition(square, k, axis=1)[:, k] for square in _squares(manifold, manifold)])
    return np.concatenate([(square <= radii[None, :]).any(1) for square in _squares(points, manifold)])


def _squares(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of rows of ‖a − b‖² [N, M], from differences, so that equal distances are equal numbers."""
    rows = max(1, BLOCK // b.size)
    return (np.square(a[k : k + rows, None] - b[None]).sum(-1) for k in range(0, len(a), rows))
