"""Precision and recall of samples by nearest neighbors in features (Kynkäänniemi et al. 2019, arXiv:1904.06991).

The manifold of a set of features is the union of balls around its points; the radius of a ball is the distance to
the k-th nearest other point of the set. Precision is the share of samples within the manifold of the real images,
recall the share of real images within the manifold of the samples. Both depend on the sizes of the sets, so they are
comparable only at equal sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BLOCK = 2**24  # numbers in memory at a time


class PrecisionRecall(NamedTuple):
    """The result of `precision_recall`.

    Attributes:
      covered: whether each sample is within the manifold of the reference, bool [N].
      reached: whether each reference point is within the manifold of the samples, bool [M].
    """

    covered: np.ndarray
    reached: np.ndarray

    @property
    def precision(self) -> float:
        """The share of samples within the manifold of the reference."""
        return float(self.covered.mean())

    @property
    def recall(self) -> float:
        """The share of the reference within the manifold of the samples."""
        return float(self.reached.mean())


def precision_recall(features: np.ndarray, reference: np.ndarray, k: int = 3) -> PrecisionRecall:
    """Compute precision and recall from features [N, D] of samples and [M, D] of real images, N, M > k."""
    return PrecisionRecall(within(features, reference, k), within(reference, features, k))


def within(points: np.ndarray, manifold: np.ndarray, k: int = 3) -> np.ndarray:
    """Return whether each point is in the closed ball of some point of the manifold, bool [N].

    A point of the manifold is not its own neighbor, but duplicates are neighbors of each other.

    Args:
      points: features [N, D].
      manifold: features [M, D].
      k: the radius of a ball is the distance to the k-th nearest neighbor.

    Raises:
      ValueError: the shapes do not match, or the manifold has too few points.
    """
    points, manifold = np.asarray(points, np.float64), np.asarray(manifold, np.float64)
    if points.ndim != 2 or manifold.ndim != 2 or points.shape[1] != manifold.shape[1]:
        raise ValueError(f"features of shapes {points.shape} and {manifold.shape} must be [N, D] and [M, D]")
    if not 1 <= k < len(manifold):
        raise ValueError(f"{len(manifold)} features do not have {k} neighbors each")
    # the distance 0 to the point itself is the smallest of each row
    radii = np.concatenate([np.partition(square, k, axis=1)[:, k] for square in _squares(manifold, manifold)])
    return np.concatenate([(square <= radii[None, :]).any(1) for square in _squares(points, manifold)])


def _squares(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Yield blocks of rows of ‖a − b‖² [N, M], from differences, so that equal distances are equal numbers."""
    rows = max(1, BLOCK // b.size)
    return (np.square(a[k : k + rows, None] - b[None]).sum(-1) for k in range(0, len(a), rows))
