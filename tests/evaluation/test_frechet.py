"""The Fréchet distance on Gaussians, where it is known."""

import numpy as np
import pytest

from vdm_jax.evaluation.frechet import Moments, distance, frechet, moments


def rotation(seed, d):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def test_distance_of_gaussians_that_share_their_axes():
    """‖Δμ‖² + Σ (√λ − √λ′)², whatever the axes are."""
    a, b, shift = np.array([4.0, 1.0, 0.25, 0.0]), np.array([1.0, 9.0, 0.0, 0.0]), np.array([1.0, -2.0, 0.5, 0.0])
    turn = rotation(0, 4)
    first, second = Moments(turn @ shift, turn @ np.diag(a) @ turn.T), Moments(np.zeros(4), turn @ np.diag(b) @ turn.T)
    expected = np.sum(shift**2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    np.testing.assert_allclose(frechet(first, second), expected, rtol=1e-7)
    np.testing.assert_allclose(frechet(second, first), expected, rtol=1e-7)


def test_distance_of_general_covariances_in_two_dimensions():
    """tr (Σ^½ Σ′ Σ^½)^½ = √(tr ΣΣ′ + 2 √det ΣΣ′) for 2 × 2."""
    a, b = (m @ m.T for m in (np.array([[1.0, 0.3], [-0.2, 0.5]]), np.array([[0.4, 0.9], [0.1, 2.0]])))
    cross = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = 5.0 + np.trace(a) + np.trace(b) - 2 * cross
    np.testing.assert_allclose(frechet(Moments(np.array([1.0, 2.0]), a), Moments(np.zeros(2), b)), expected, rtol=1e-12)


def test_equal_sets_are_at_distance_zero_even_where_covariances_are_singular():
    features = np.random.default_rng(0).normal(size=(20, 64)) * np.logspace(-4, 2, 64)[None]
    assert abs(frechet(moments(features), moments(features))) < 1e-6 * np.trace(moments(features).covariance)


def test_distance_is_between_means_for_points():
    assert frechet(Moments(np.array([3.0]), np.zeros((1, 1))), Moments(np.array([1.0]), np.zeros((1, 1)))) == 4.0


def test_plain_distances_are_biased_as_said_and_the_jackknife_takes_it_away():
    """Equal N(0, I): D/N + D (D + 1)/(4N) from each set."""
    d, n, draws = 8, 400, 60
    rng = np.random.default_rng(0)
    found = [distance(*rng.normal(size=(2, n, d))) for _ in range(draws)]
    plain, corrected = (np.array([getattr(f, name) for f in found]) for name in ("plain", "corrected"))
    bias = 2 * (d / n + d * (d + 1) / (4 * n))
    np.testing.assert_allclose(plain.mean(), bias, rtol=0.05)
    assert abs(corrected.mean()) < 4 * corrected.std() / np.sqrt(draws) < 0.2 * bias


def test_standard_errors_cover_the_distance_of_unequal_gaussians():
    """Of 200 corrected estimates about 95 % lie within two of their standard errors of the true distance."""
    d, scale = 4, np.array([1.0, 2.0, 0.5, 1.5])
    truth = 0.7**2 * d + np.sum((scale - 1) ** 2)
    rng = np.random.default_rng(0)
    pairs = [(0.7 + rng.normal(size=(300, d)) * scale[None], rng.normal(size=(500, d))) for _ in range(200)]
    found = [distance(*pair) for pair in pairs]
    inside = np.mean([abs(f.corrected - truth) < 2 * f.standard_error for f in found])
    assert 0.9 < inside < 0.99


def test_too_few_features_are_refused():
    with pytest.raises(ValueError, match="40 features"):
        distance(np.zeros((39, 2)), np.zeros((500, 2)))
    with pytest.raises(ValueError, match="two or more"):
        moments(np.zeros((1, 3)))
