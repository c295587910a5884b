"""The Fréchet distance between two sets of features, with its error and its bias.

    d² = ‖μ − μ′‖² + tr Σ + tr Σ′ − 2 tr (Σ^{½} Σ′ Σ^{½})^{½}

between the Gaussians with the sets' means and covariances (Dowson & Landau 1982; Heusel et al. 2017 apply it to
features of an Inception network and call that FID). All in float64.

d² of two samples is not zero when their distributions are equal: it is too large by O(1/N) in each of the sets, by
D/N + D(D + 1)/(4N) from each for features N(0, I) of D dimensions. So plain distances compare only at equal N. The
jackknife takes the O(1/N) away and gives a standard error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """mean [D] and covariance [D, D] of a set of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray


class Distance(NamedTuple):
    """d² between two sets, d² without its O(1/N) bias, and the standard error of either."""

    plain: float
    corrected: float
    standard_error: float


def moments(features: np.ndarray) -> Moments:
    """Of features [N, D], N ≥ 2; the covariance divides by N − 1."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features of shape {features.shape}; two or more rows of numbers are needed")
    return Moments(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


def frechet(first: Moments, second: Moments) -> float:
    """d² between two Gaussians.

    The eigenvalues of the symmetric Σ^{½} Σ′ Σ^{½} are those of Σ Σ′, and symmetric solvers keep them real and
    accurate where covariances are singular, as with fewer features than dimensions.
    """
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ second.covariance @ root)
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    squares = np.sum(np.square(first.mean - second.mean))
    return float(squares + traces - 2 * np.sqrt(np.clip(cross, 0, None)).sum())


def distance(features: np.ndarray, reference: np.ndarray, groups: int = 20) -> Distance:
    """d² between features [N, D] and reference [M, D], in no special order within either.

    Delete-a-group jackknife: each of the groups is left out of both sets in turn. The error is of new draws of both
    sets; near d² = 0, where d² has no linear part, it is rough.
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
    """All rows but every `groups`-th, counted from the `group`-th."""
    return features[np.arange(len(features)) % groups != group]
