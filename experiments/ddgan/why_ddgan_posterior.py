"""The exact q(z_s|z_t) of a 1-D mixture of Gaussians under a chain of T steps, and its distance from a Gaussian.

With z_s ~ Σ_k w_k N(m_k, v_k) at the previous level (level 0 is the data) and z_t|z_s ~ N(√(1 − β) z_s, β),
q(z_s|z_t) is a mixture with the same number of components:

    1/V_k = 1/v_k + (1 − β)/β      means   V_k (m_k/v_k + √(1 − β) z_t/β)      weights ∝ w_k N(z_t; moments at level t)

Its KL divergence from the Gaussian with the same mean and variance S is ½ log(2πe S) − H in nats, where S is in closed
form and the entropy H is by quadrature. No Gaussian is closer, so the sum of these divergences over a chain, averaged
over z_t, is the loss of the bound on log p(x) for Gaussian reverse steps with optimal means and variances.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from experiments import mixture
from experiments.mixture import Mixture
from vdm_jax.diffusion import tables

NODES, REACH = 97, 8.0  # nodes of a trapezoidal rule and its half-width in standard deviations of a component
OUTER, OUTER_REACH = 31, 6.0  # the same for z_t
ON_LINE = 385  # points of the grid on which maxima are counted


class Posterior(NamedTuple):
    """q(z_s|z_t) for N values of z_t: shares and means of its components, [N, K], and their deviations [K]."""

    shares: np.ndarray
    means: np.ndarray
    deviations: np.ndarray


class Step(NamedTuple):
    """A step from z_t to z_s: its β, and ᾱ of both ends."""

    beta: float
    alpha_bar_s: float
    alpha_bar_t: float


# Three narrow modes in the range of images.
DATA = Mixture(np.array([0.3, 0.45, 0.25]), np.array([-1.0, -0.2, 0.9]), np.full(3, 0.05))


def chain(steps: int) -> list[Step]:
    """Return the paper's process in `steps` steps, in order of increasing noise."""
    betas = tables.vp_betas(steps)
    alpha_bar = np.exp(np.concatenate([[0.0], np.cumsum(np.log1p(-betas))]))
    return [Step(*each) for each in zip(betas, alpha_bar[:-1], alpha_bar[1:], strict=True)]


def log_normal(x: np.ndarray, mean: np.ndarray, variance: np.ndarray | float) -> np.ndarray:
    return -0.5 * (np.square(x - mean) / variance + np.log(2 * math.pi * variance))


def posterior(data: Mixture, step: Step, z: np.ndarray) -> Posterior:
    """Return q(z_s|z_t) for each z_t in z [N]."""
    prior, above, keep = data.at(step.alpha_bar_s), data.at(step.alpha_bar_t), 1 - step.beta
    log_shares = np.log(data.shares) + log_normal(z[:, None], above.means, above.deviations**2)
    shares = np.exp(log_shares - log_shares.max(1, keepdims=True))
    variance = 1 / (1 / prior.deviations**2 + keep / step.beta)
    means = variance * (prior.means / prior.deviations**2 + math.sqrt(keep) * z[:, None] / step.beta)
    return Posterior(shares / shares.sum(1, keepdims=True), means, np.sqrt(variance))


def log_density(q: Posterior, x: np.ndarray) -> np.ndarray:
    """Return log q at x [N, M]."""
    parts = log_normal(x[..., None], q.means[:, None], q.deviations**2)
    highest = parts.max(-1)
    return highest + np.log((q.shares[:, None] * np.exp(parts - highest[..., None])).sum(-1))


def moments(q: Posterior) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of q, [N, 1] each."""
    mean = (q.shares * q.means).sum(1, keepdims=True)
    return mean, (q.shares * (q.deviations**2 + np.square(q.means - mean))).sum(1, keepdims=True)


def from_gaussian(q: Posterior) -> np.ndarray:
    """Return KL(q ‖ Gaussian with its mean and variance), nats [N]."""
    nodes, shares = normal_nodes(NODES, REACH)
    entropy = np.zeros(len(q.means))
    for k, deviation in enumerate(q.deviations):
        x = q.means[:, k, None] + deviation * nodes
        entropy -= q.shares[:, k] * (log_density(q, x) @ shares)
    return 0.5 * np.log(2 * math.pi * math.e * moments(q)[1][:, 0]) - entropy


def on_line(q: Posterior, reach: float, count: int) -> np.ndarray:
    """Return grids [N, count] that extend `reach` deviations beyond the outermost components."""
    low, high = ((q.means + side * reach * q.deviations) for side in (-1, 1))
    low, high = low.min(1, keepdims=True), high.max(1, keepdims=True)
    return low + (high - low) * np.linspace(0, 1, count)


def normal_nodes(count: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes from −reach to reach and their trapezoidal weights under N(0, 1), [count] each."""
    nodes = np.linspace(-reach, reach, count)
    density = np.exp(-0.5 * np.square(nodes))
    return nodes, density / density.sum()


def from_above(data: Mixture, step: Step) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes z_t [N] and weights [N] of a quadrature over every component of q(z_t)."""
    above, (nodes, shares) = data.at(step.alpha_bar_t), normal_nodes(OUTER, OUTER_REACH)
    z = above.means[:, None] + above.deviations[:, None] * nodes
    return z.reshape(-1), (above.shares[:, None] * shares).reshape(-1)


class OfStep(NamedTuple):
    """Averages over z_t of the divergence from a Gaussian, nats, and of the number of modes."""

    nats: float
    modes: float


def of_steps(data: Mixture, steps: int) -> list[OfStep]:
    """Return the averages for every step of the paper's process, in order of increasing noise."""
    found = []
    for step in chain(steps):
        z, share = from_above(data, step)
        q = posterior(data, step, z)
        modes = mixture.modes(np.exp(log_density(q, on_line(q, 3, ON_LINE))))
        found.append(OfStep(float(from_gaussian(q) @ share), float(modes @ share)))
    return found


def drawn(data: Mixture, steps: int, index: int, count: int = 241) -> dict[str, list[list[float]]]:
    """Return x, q(x|z_t) and the moment-matched Gaussian for three quantiles of z_t, for the figure."""
    step = chain(steps)[index]
    above = data.at(step.alpha_bar_t)
    z = np.linspace(above.means.min() - 4, above.means.max() + 4, 4001)
    density = above.density(z)
    q = posterior(data, step, np.interp((0.2, 0.5, 0.8), np.cumsum(density) / density.sum(), z))
    x = on_line(q, 4, count)
    listed: Any = lambda values: np.round(values, 4).tolist()
    gaussian = np.exp(log_normal(x, *moments(q)))
    return {"x": listed(x), "density": listed(np.exp(log_density(q, x))), "gaussian": listed(gaussian)}
