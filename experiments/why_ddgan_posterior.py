"""The exact q(z_s|z_t) of a mixture of Gaussians on the line under a chain of T steps, and how far it is from Gaussian.

With data Σ_k w_k N(m_k, v) and levels α, σ, of which level 0 is the data, z_s of component k is N(α_s m_k, α_s² v +
σ_s²) and z_t|z_s is N(√(1 − β) z_s, β). So q(z_s|z_t) is a mixture of as many Gaussians of one variance:

    1/V = 1/(α_s² v + σ_s²) + (1 − β)/β          means   V (α_s m_k/(α_s² v + σ_s²) + √(1 − β) z_t/β)
    weights ∝ w_k N(z_t; α_t m_k, α_t² v + σ_t²)

Its divergence from the Gaussian of the same mean and variance S is ½ log(2πe S) − H with its entropy H, in nats: S is
known, H is a quadrature. No Gaussian is nearer, so over a chain the sum of these, averaged over z_t, is what the bound
on log p(x) of Gaussian reverse steps loses even where their means and variances are the best.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.diffusion import tables

NODES, REACH = 97, 8.0  # of a quadrature by trapezoids, and its half-width in deviations of a component
OUTER, OUTER_REACH = 31, 6.0  # the same for z_t
PEAK = 0.01  # a maximum of a density counts as a mode from this share of the highest on
ON_LINE = 385  # points where maxima are looked for


class Mixture(NamedTuple):
    """Σ_k weights_k N(means_k, variance): [K], [K] and a number; or, with means [..., K], one for each z_t."""

    weights: np.ndarray
    means: np.ndarray
    variance: float


class Step(NamedTuple):
    """z_t of a step to z_s: its beta, and α and σ² of both ends."""

    beta: float
    alpha_s: float
    variance_s: float
    alpha_t: float
    variance_t: float


# Three narrow modes in the range of images.
DATA = Mixture(np.array([0.3, 0.45, 0.25]), np.array([-1.0, -0.2, 0.9]), 0.05**2)


def chain(steps: int) -> list[Step]:
    """The paper's process in so many steps, from the data up."""
    log_alpha_bar = np.concatenate([[0.0], np.cumsum(np.log1p(-(betas := tables.vp_betas(steps))))])
    alpha, variance = np.exp(0.5 * log_alpha_bar), -np.expm1(log_alpha_bar)
    return [Step(betas[k], alpha[k], variance[k], alpha[k + 1], variance[k + 1]) for k in range(steps)]


def log_normal(x: np.ndarray, mean: np.ndarray, variance: float) -> np.ndarray:
    return -0.5 * (np.square(x - mean) / variance + math.log(2 * math.pi * variance))


def noised(data: Mixture, alpha: float, variance: float) -> Mixture:
    """q(z) at a level."""
    return Mixture(data.weights, alpha * data.means, alpha**2 * data.variance + variance)


def posterior(data: Mixture, step: Step, z: np.ndarray) -> Mixture:
    """q(z_s|z_t) for each of z [N]: weights and means [N, K]."""
    prior, above = noised(data, step.alpha_s, step.variance_s), noised(data, step.alpha_t, step.variance_t)
    keep = 1 - step.beta
    log_weights = np.log(data.weights) + log_normal(z[:, None], above.means, above.variance)
    weights = np.exp(log_weights - log_weights.max(1, keepdims=True))
    variance = 1 / (1 / prior.variance + keep / step.beta)
    means = variance * (prior.means / prior.variance + math.sqrt(keep) * z[:, None] / step.beta)
    return Mixture(weights / weights.sum(1, keepdims=True), means, variance)


def log_density(mixture: Mixture, x: np.ndarray) -> np.ndarray:
    """log q at x [N, M] of a mixture with weights and means [N, K]."""
    parts = log_normal(x[..., None], mixture.means[:, None], mixture.variance)
    highest = parts.max(-1)
    return highest + np.log((mixture.weights[:, None] * np.exp(parts - highest[..., None])).sum(-1))


def from_gaussian(mixture: Mixture) -> np.ndarray:
    """KL(q ‖ the Gaussian of its mean and variance), nats [N], of a mixture with weights and means [N, K]."""
    mean = (mixture.weights * mixture.means).sum(-1, keepdims=True)
    spread = mixture.variance + (mixture.weights * np.square(mixture.means - mean)).sum(-1)
    nodes, shares = normal_nodes(NODES, REACH)
    entropy = np.zeros(len(mixture.means))
    for k in range(mixture.means.shape[1]):
        x = mixture.means[:, k, None] + math.sqrt(mixture.variance) * nodes
        entropy -= mixture.weights[:, k] * (log_density(mixture, x) @ shares)
    return 0.5 * np.log(2 * math.pi * math.e * spread) - entropy


def modes(mixture: Mixture) -> np.ndarray:
    """Local maxima that are at least 1% as high as the highest, int [N]."""
    deviation = math.sqrt(mixture.variance)
    low, high = mixture.means.min(1) - 3 * deviation, mixture.means.max(1) + 3 * deviation
    x = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, ON_LINE)
    density = log_density(mixture, x)
    middle = density[:, 1:-1]
    peaks = (middle > density[:, :-2]) & (middle >= density[:, 2:])
    found: np.ndarray = (peaks & (middle > density.max(1, keepdims=True) + math.log(PEAK))).sum(1)
    return found


def normal_nodes(count: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Places from −reach to reach and their shares under N(0, 1), by trapezoids: [count] each."""
    nodes = np.linspace(-reach, reach, count)
    density = np.exp(-0.5 * np.square(nodes))
    return nodes, density / density.sum()


def from_above(data: Mixture, step: Step) -> tuple[np.ndarray, np.ndarray]:
    """z_t [N] and its shares [N], a quadrature of every component of q(z_t)."""
    above, (nodes, shares) = noised(data, step.alpha_t, step.variance_t), normal_nodes(OUTER, OUTER_REACH)
    z = above.means[:, None] + math.sqrt(above.variance) * nodes
    return z.reshape(-1), (above.weights[:, None] * shares).reshape(-1)


class OfStep(NamedTuple):
    """Averages over z_t of the divergence from a Gaussian, nats, and of the number of modes."""

    nats: float
    modes: float


def of_steps(data: Mixture, steps: int) -> list[OfStep]:
    """Of every step of the paper's process in so many, from the data up."""
    found = []
    for step in chain(steps):
        z, share = from_above(data, step)
        q = posterior(data, step, z)
        found.append(OfStep(float(from_gaussian(q) @ share), float(modes(q) @ share)))
    return found


def drawn(data: Mixture, steps: int, index: int, count: int = 241) -> dict[str, list[list[float]]]:
    """For a figure: x, q(x|z_t) and the Gaussian of its mean and variance, for three quantiles of z_t."""
    step = chain(steps)[index]
    above = noised(data, step.alpha_t, step.variance_t)
    z = np.linspace(above.means.min() - 4, above.means.max() + 4, 4001)
    density = np.exp(log_density(Mixture(above.weights[None], above.means[None], above.variance), z[None])[0])
    z = np.interp((0.2, 0.5, 0.8), np.cumsum(density) / density.sum(), z)
    q = posterior(data, step, z)
    mean = (q.weights * q.means).sum(1, keepdims=True)
    spread = q.variance + (q.weights * np.square(q.means - mean)).sum(1, keepdims=True)
    reach = 4 * math.sqrt(q.variance)
    low, high = q.means.min(1, keepdims=True) - reach, q.means.max(1, keepdims=True) + reach
    x = low + (high - low) * np.linspace(0, 1, count)
    gaussian = np.exp(-0.5 * np.square(x - mean) / spread) / np.sqrt(2 * math.pi * spread)
    listed: Any = lambda values: np.round(values, 4).tolist()
    return {"x": listed(x), "density": listed(np.exp(log_density(q, x))), "gaussian": listed(gaussian)}
