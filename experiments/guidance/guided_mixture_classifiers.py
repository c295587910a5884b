"""The classifier p(c|z) ∝ p(c) p(z|c) that is implicit in a conditional model, against the exact one."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.common import Measured, Outcome, mean_of
from experiments.guidance.guided_mixture_model import GAMMA_0, GAMMA_1, LINE, at, denoiser, split
from vdm_jax.diffusion import samplers
from vdm_jax.diffusion.process import VP, q_sample


def accuracies(implicit: np.ndarray, exact: np.ndarray) -> dict[str, Measured]:
    """Return the accuracies of both classifiers, from correctness [N] each, and their difference."""
    return {
        "accuracy_exact": mean_of(exact),
        "accuracy_implicit": mean_of(implicit),
        "implicit_minus_exact": mean_of(implicit * 1.0 - exact),
    }


def by_scores(config: dict[str, Any], seed: int) -> Outcome:
    """Measure accuracy at one VP noise level: exact p(c|z), and Bayes' rule with integrated trained scores."""
    rng, level = np.random.default_rng(seed), at(config["gamma"], VP)
    labels = rng.choice(3, config["draws"], p=LINE.shares)
    alpha, sigma = float(level.alpha), float(level.sigma)
    z = alpha * LINE.draw(rng, labels) + sigma * rng.standard_normal((len(labels), 1))
    exact = np.asarray(jax.nn.log_softmax(LINE.logits(jnp.asarray(z), level)), np.float64)
    grid = np.linspace(-6, 6, 2001)
    densities = []
    for k in range(3):
        predict = samplers.predictor(denoiser("trained", seed), split("trained"), jnp.full(len(grid), k))
        score = -np.asarray(predict(jnp.asarray(grid[:, None]), level).eps)[:, 0] / sigma
        log = np.concatenate([[0.0], np.cumsum(0.5 * (score[1:] + score[:-1]) * np.diff(grid))])
        log -= np.logaddexp.reduce(log) + math.log(grid[1] - grid[0])
        densities.append(np.interp(z[:, 0], grid, log) + math.log(LINE.shares[k]))
    implicit = np.stack(densities, axis=1)
    implicit -= np.logaddexp.reduce(implicit, axis=1, keepdims=True)
    kl = np.sum(np.exp(exact) * (exact - implicit), axis=1)
    return Outcome(accuracies(implicit.argmax(1) == labels, exact.argmax(1) == labels) | {"kl": mean_of(kl)})


def by_errors(config: dict[str, Any], seed: int) -> Outcome:
    """Measure accuracy of argmax_c log p(c) − ½ ∫ ‖ε − ε̂_c‖² dγ, with equal noise for all classes, and exactly."""
    rng, count, noises = np.random.default_rng(seed), config["draws"], config["noises"]
    labels = rng.choice(3, count, p=LINE.shares)
    x = LINE.draw(rng, labels)
    convert, denoise = split(config["scores"]), denoiser(config["scores"], seed)

    @jax.jit
    def loss(x: Array, u: Array, eps: Array) -> Array:
        gamma = GAMMA_0 + (GAMMA_1 - GAMMA_0) * u
        level = at(gamma, VP)
        z = q_sample(x, eps, level)
        of = lambda k: samplers.predictor(denoise, convert, jnp.full(len(x), k))(z, level).eps
        return jnp.stack([jnp.square(eps - of(k))[:, 0] for k in range(3)], axis=1)

    total, offset = np.zeros((count, 3)), rng.random(count)
    for number in range(noises):
        u = (offset + number / noises) % 1
        total += np.asarray(loss(*map(jnp.asarray, (x, u, rng.standard_normal((count, 1))))))
    scores = np.log(LINE.shares) - 0.5 * (GAMMA_1 - GAMMA_0) * total / noises
    right, exact = scores.argmax(1) == labels, LINE.log_parts(x).argmax(1) == labels
    return Outcome(accuracies(right, exact))
