"""The exact reverse steps of a mixture on the line, and what the committed results of `why_ddgan` must show."""

from __future__ import annotations

import json
import math
import pathlib

import numpy as np
import pytest

from experiments import common
from experiments import why_ddgan_posterior as exact
from experiments.why_ddgan_posterior import DATA, Mixture

RESULTS = pathlib.Path(common.__file__).parent / "results" / "why_ddgan.json"


def test_one_gaussian_has_gaussian_reverse_steps_whatever_their_size() -> None:
    one = Mixture(np.ones(1), np.array([0.3]), 0.7**2)
    for steps in (1, 2, 4):
        for of in exact.of_steps(one, steps):
            assert abs(of.nats) < 1e-12 and of.modes == pytest.approx(1, abs=1e-12)


def test_a_posterior_is_prior_times_likelihood() -> None:
    """On a grid, for the middle step of four."""
    step, z = exact.chain(4)[1], np.array([-1.3, 0.0, 0.4])
    x = np.linspace(-8, 8, 8001)
    below = exact.noised(DATA, step.alpha_s, step.variance_s)
    prior = (below.weights * np.exp(exact.log_normal(x[:, None], below.means, below.variance))).sum(1)
    likelihood = np.exp(exact.log_normal(z[:, None], math.sqrt(1 - step.beta) * x, step.beta))
    product = prior * likelihood
    product /= product.sum(1, keepdims=True) * (x[1] - x[0])
    found = np.exp(exact.log_density(exact.posterior(DATA, step, z), np.tile(x, (3, 1))))
    np.testing.assert_allclose(found, product, atol=1e-9)


def test_the_only_step_of_one_is_the_data_whatever_z_is() -> None:
    """β = .99996: what z tells of the data is almost nothing, so the step has the data's modes and distance."""
    (step,) = exact.chain(1)
    q = exact.posterior(DATA, step, np.array([-2.0, 0.0, 2.0]))
    np.testing.assert_allclose(q.means, np.tile(DATA.means, (3, 1)), atol=1e-3)
    np.testing.assert_allclose(q.weights, np.tile(DATA.weights, (3, 1)), atol=0.02)
    (of,) = exact.of_steps(DATA, 1)
    x = np.linspace(-2, 2, 20_001)
    log_p = exact.log_density(Mixture(DATA.weights[None], DATA.means[None], DATA.variance), x[None])[0]
    p = np.exp(log_p) * (x[1] - x[0])
    mean = p @ x
    assert of.nats == pytest.approx(
        0.5 * math.log(2 * math.pi * math.e * (p @ np.square(x - mean))) + p @ log_p, abs=3e-4
    )
    assert of.modes == pytest.approx(3, abs=1e-9)


def test_many_small_steps_are_gaussian() -> None:
    """Their divergences fall faster than steps grow in number: even the sum over the chain vanishes."""
    few, many = (np.array([of.nats for of in exact.of_steps(DATA, steps)]) for steps in (4, 40))
    assert many.max() < 0.05 * few.max() and many.sum() < 0.1 * few.sum()
    assert many.min() > -1e-12


@pytest.mark.skipif(not RESULTS.exists(), reason="why_ddgan has not been run")
def test_committed_steps_are_multimodal_if_few_and_gaussian_if_many() -> None:
    rows = {e["name"]: e["measured"] for e in json.loads(RESULTS.read_text("utf-8"))["rows"]}
    chains = [m for name, m in rows.items() if name.startswith("q(z_s|z_t)")]
    nats = [m["nats_of_all_steps"]["mean"] for m in chains]
    assert nats == sorted(nats, reverse=True) and nats[0] > 1 and nats[-1] < 1e-3
    assert chains[0]["modes"]["mean"] > 2.99 and chains[-1]["modes"]["mean"] < 1.001
