"""A mixture of Gaussians in one dimension: densities, scores and reverse steps in float64, exact or by quadrature.

z = √ᾱ x + √(1 − ᾱ) ε is again a mixture, so everything that a network would learn is known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Mixture(NamedTuple):
    """Shares, means and standard deviations of the components, [K] each."""

    shares: np.ndarray
    means: np.ndarray
    deviations: np.ndarray

    def at(self, alpha_bar: float) -> Mixture:
        """Return the distribution of √ᾱ x + √(1 − ᾱ) ε."""
        variance = alpha_bar * self.deviations**2 + 1 - alpha_bar
        return Mixture(self.shares, np.sqrt(alpha_bar) * self.means, np.sqrt(variance))

    @property
    def mean(self) -> float:
        """E[x]."""
        return float(self.shares @ self.means)

    @property
    def variance(self) -> float:
        """Var x."""
        return float(self.shares @ (self.deviations**2 + self.means**2) - self.mean**2)

    def standardized(self) -> Mixture:
        """Return the distribution of (x − E[x])/√Var x."""
        scale = np.sqrt(self.variance)
        return Mixture(self.shares, (self.means - self.mean) / scale, self.deviations / scale)

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw [count] independent values."""
        k = rng.choice(len(self.shares), count, p=self.shares)
        return self.means[k] + self.deviations[k] * rng.standard_normal(count)

    def parts(self, x: np.ndarray) -> np.ndarray:
        """Return share × density of every component at x [...], [..., K]."""
        off = (np.asarray(x)[..., None] - self.means) / self.deviations
        return self.shares * np.exp(-0.5 * off**2) / (self.deviations * np.sqrt(2 * np.pi))

    def density(self, x: np.ndarray) -> np.ndarray:
        """Return p(x), [...]."""
        return self.parts(x).sum(-1)

    def score(self, x: np.ndarray) -> np.ndarray:
        """Return d log p(x)/dx, [...]."""
        pull = (self.means - np.asarray(x)[..., None]) / self.deviations**2
        log = np.log(self.shares / self.deviations) - 0.5 * (pull * self.deviations) ** 2
        weight = np.exp(log - log.max(-1, keepdims=True))  # all densities underflow in the tails
        return (weight * pull).sum(-1) / weight.sum(-1)


# Three components; the variance is .948.
EXAMPLE = Mixture(np.array([0.3, 0.5, 0.2]), np.array([-1.2, 0.3, 1.5]), np.array([0.15, 0.2, 0.1]))
GRID = np.linspace(-7, 7, 1401)


class Reverse(NamedTuple):
    """p(z_s|z_t) on a grid of z_s for several z_t; weight is that of z_t under p(z_t), so Σ weight f is E[f]."""

    z: np.ndarray  # z_t [N]
    weight: np.ndarray  # [N]
    previous: np.ndarray  # z_s [N, M]
    density: np.ndarray  # [N, M]
    mean: np.ndarray  # [N]
    variance: np.ndarray  # [N]


def reverse_step(below: Mixture, step_variance: float, z: np.ndarray | None = None, points: int = 201) -> Reverse:
    """Apply Bayes' rule to z_t = √(1 − σ²) z_s + σ ε, z_s ~ below; by default at 201 z_t that cover p(z_t)."""
    alpha, sigma = np.sqrt(1 - step_variance), np.sqrt(step_variance)
    above = below.at(1 - step_variance)
    z = np.linspace(-6, 6, 201) if z is None else z
    # the range in which neither p(z_s) nor q(z_t|z_s) is negligible
    low, high = (np.clip((z + side * 8 * sigma) / alpha, -6, 6) for side in (-1, 1))
    previous = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, points)
    joint = below.density(previous) * np.exp(-0.5 * ((z[:, None] - alpha * previous) / sigma) ** 2)
    width = np.maximum(high - low, 1e-300) / (points - 1)
    density = joint / np.maximum(joint.sum(1) * width, 1e-300)[:, None]
    score = above.score(z)
    mean = (z + step_variance * score) / alpha
    variance = ((previous - mean[:, None]) ** 2 * density).sum(1) * width
    weight = above.density(z)
    return Reverse(z, weight / weight.sum(), previous, density, mean, variance)


def distances(reverse: Reverse, variance: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return KL(p ‖ N(mean, variance)) in nats and the total variation at every z_t [N], with the exact mean."""
    width = (reverse.previous[:, -1] - reverse.previous[:, 0]) / (reverse.previous.shape[1] - 1)
    variance = np.broadcast_to(variance, reverse.mean.shape)[:, None]
    log_normal = -0.5 * ((reverse.previous - reverse.mean[:, None]) ** 2 / variance + np.log(2 * np.pi * variance))
    log_p = np.log(np.maximum(reverse.density, 1e-300))
    kl = (reverse.density * (log_p - log_normal)).sum(1) * width
    return kl, 0.5 * np.abs(reverse.density - np.exp(log_normal)).sum(1) * width


def modes(p: np.ndarray) -> np.ndarray:
    """Count the local maxima of densities on grids [N, M] that exceed 1% of the highest, [N]."""
    top = (p[:, 1:-1] > p[:, :-2]) & (p[:, 1:-1] >= p[:, 2:]) & (p[:, 1:-1] > 0.01 * p.max(1, keepdims=True))
    return top.sum(1)
