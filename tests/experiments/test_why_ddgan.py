"""The exact reverse steps of a mixture on the line, and what the committed results of `why_ddgan_steps` must show."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest
from etils import epath

from experiments import common, models
from experiments.common import Row
from experiments.ddgan import why_ddgan
from experiments.ddgan import why_ddgan_posterior as exact
from experiments.ddgan.why_ddgan_posterior import DATA
from experiments.mixture import Mixture

RESULTS = pathlib.Path(common.__file__).parent / "results" / "why_ddgan_steps.json"


def test_one_gaussian_has_gaussian_reverse_steps_whatever_their_size() -> None:
    one = Mixture(np.ones(1), np.array([0.3]), np.array([0.7]))
    for steps in (1, 2, 4):
        for of in exact.of_steps(one, steps):
            assert abs(of.nats) < 1e-12 and of.modes == pytest.approx(1, abs=1e-12)


def test_a_posterior_is_prior_times_likelihood() -> None:
    """On a grid, for the middle step of four."""
    step, z = exact.chain(4)[1], np.array([-1.3, 0.0, 0.4])
    x = np.linspace(-8, 8, 8001)
    prior = DATA.at(step.alpha_bar_s).density(x)
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
    np.testing.assert_allclose(q.shares, np.tile(DATA.shares, (3, 1)), atol=0.02)
    (of,) = exact.of_steps(DATA, 1)
    x = np.linspace(-2, 2, 20_001)
    log_p = exact.log_density(exact.Posterior(DATA.shares[None], DATA.means[None], DATA.deviations), x[None])[0]
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


def test_committed_steps_are_multimodal_if_few_and_gaussian_if_many() -> None:
    chains = [e["measured"] for e in json.loads(RESULTS.read_text("utf-8"))["rows"]]
    nats = [m["nats_of_all_steps"]["mean"] for m in chains]
    assert nats == sorted(nats, reverse=True) and nats[0] > 1 and nats[-1] < 1e-3
    assert chains[0]["modes_of_a_step"]["mean"] > 2.99 and chains[-1]["modes_of_a_step"]["mean"] < 1.001


@pytest.mark.slow
def test_a_tiny_gan_is_measured_on_few_points_and_on_all(tmp_path: pathlib.Path) -> None:
    """Accuracies are of both checkpoints, and of as many held-out points as training points."""
    tiny: dict[str, Any] = {"model.width": 8, "data.batch_size": 32, "training.num_steps": 20, "training.log_every": 5}
    tiny |= {"training.steps_per_call": 5, "training.checkpoint_every": 10}
    tiny |= {"sampling.num_images": 200, "sampling.batch_size": 200}
    few = {"data.name": "npz", "data.batch_size": 32}
    entries = [
        Row("500 points, T = 4", {"kind": "few", **models.identity(why_ddgan.FILE, {**tiny, **few})}),
        Row("all points, GAN", {"kind": "all", **models.identity(why_ddgan.FILE, {**tiny, **why_ddgan.GANS["GAN"]})}),
    ]
    about = {"experiment": "why_ddgan", "scale": "mini", "hardware": "cpu", "data": "points", "command": "test"}
    measure = lambda row, seed: why_ddgan.measure(row, seed, epath.Path(tmp_path))
    results = common.fill(tmp_path / "r.json", about, entries, 1, measure)
    assert common.problems(results) == []
    on_few, on_all = (entry["measured"] for entry in results["rows"])
    assert results["rows"][0]["runs"]["1"]["curves"]["steps"] == [10, 20]
    assert on_few["accuracy_train"]["n"] == on_few["accuracy_held_out"]["n"] == why_ddgan.JUDGED
    assert 0 < on_few["gap_at_data"]["n"] < why_ddgan.JUDGED / 2  # one level of four
    assert {"modes", "diverged"} <= on_all.keys() and "gap" not in on_all
    why_ddgan.EXPERIMENT.plot(results)


def test_committed_runs_say_what_the_notes_do() -> None:
    """A GAN knows its few points better than a diffused one; a seed without R1 collapsed, none with it."""
    entries = json.loads(RESULTS.with_name("why_ddgan.json").read_text("utf-8"))["rows"]
    found = {entry["name"]: entry["measured"] for entry in entries}
    assert list(found) == [row.name for row in why_ddgan.rows("mini")]
    gap = {name: m["gap"]["mean"] for name, m in found.items() if "gap" in m}
    assert min(gap["500 points, GAN"], gap["500 points, GAN with R1"]) > 3 * max(
        v for k, v in gap.items() if "T = 4" in k
    )
    assert found["all points, GAN"]["diverged"]["mean"] > 0 == found["all points, GAN with R1"]["diverged"]["mean"]
    kl = {name: m["kl_nats"]["mean"] for name, m in found.items()}
    assert kl["all points, GAN"] > 2 * kl["all points, T = 4 without R1"]
