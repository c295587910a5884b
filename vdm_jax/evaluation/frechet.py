"""The Fréchet distance between two sets of features, its standard error and its bias.

    d² = ‖μ − μ′‖² + tr Σ + tr Σ′ − 2 tr (Σ^{½} Σ′ Σ^{½})^{½}

between the Gaussians with the sets' means and covariances (Dowson & Landau 1982; Heusel et al. 2017 apply it to
features of an Inception network and call that FID). Everything is computed in float64.

The estimate of d² from samples is biased upward by O(1/N) in each of the sets; for D features distributed as
N(0, I) the bias is D/N + D(D + 1)/(4N) per set. So plain estimates are comparable only at equal N. The jackknife
removes the O(1/N) term and provides a standard error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Mean [D] and covariance [D, D] of a set of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray


class Distance(NamedTuple):
    """The estimate of d², the estimate without the O(1/N) bias, and their standard error."""

    plain: float
    corrected: float
    standard_error: float


def moments(features: np.ndarray) -> Moments:
    """Return the moments of features [N, D], N ≥ 2; the covariance divides by N − 1."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features of shape {features.shape}; two or more rows of numbers are needed")
    return Moments(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


def frechet(first: Moments, second: Moments) -> float:
    """Return d² between two Gaussians.

    The eigenvalues of the symmetric Σ^{½} Σ′ Σ^{½} are those of Σ Σ′, and symmetric solvers keep them real and
    accurate if covariances are singular, as with fewer samples than dimensions.
    """
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ second.covariance @ root)
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    squares = np.sum(np.square(first.mean - second.mean))
    return float(squares + traces - 2 * np.sqrt(np.clip(cross, 0, None)).sum())


def distance(features: np.ndarray, reference: np.ndarray, groups: int = 20) -> Distance:
    """Estimate d² between features [N, D] and reference [M, D] by a delete-a-group jackknife.

    Each group is left out of both sets in turn; the order within a set must be arbitrary. The standard error covers
    new draws of both sets; it is rough near d² = 0, where d² has no linear term.

    Raises:
      ValueError: a set has fewer than two samples per group.
    """
    if min(len(features), len(reference)) < 2 * groups:
        raise ValueError(f"{groups} groups need {2 * groups} features or more in each set")
    plain = frechet(moments(features), moments(reference))
    without = np.array(
        [frechet(*(moments(_without(a, k, groups)) for a in (features, reference))) for k in range(groups)]
    )
    spread = np.sqrt((groups - 1) * np.mean(np.square(without - without.mean())))
    return Distance(plain, float(groups * plain - (groups - 1) * without.mean()), float(spread))


def _without(features: np.ndarray, group: int, groups: int) -> np.ndarray:
    """Return the features without the rows group, group + groups, …."""
    return features[np.arange(len(features)) % groups != group]
