"""Coverage of the 1,000 modes by samples whose numbers are known, and what the committed results must show."""

from __future__ import annotations

import json
import pathlib

import numpy as np

from experiments import common
from experiments.ddgan import stacked_mnist
from vdm_jax.evaluation import features

RESULTS = pathlib.Path(common.__file__).parent / "results" / "stacked_mnist.json"
EVEN = np.full(1000, 1e-3)


def test_coverage_of_known_triples() -> None:
    """All modes equally often: KL 0; half of them: ln 2; one: ln 1000. Shares p against q: Σ p ln(p/q)."""
    every = np.tile(np.arange(1000), 20)
    cases = ((every, EVEN, 1000, 0.0), (every % 500, EVEN, 500, np.log(2)), (0 * every, EVEN, 1, np.log(1000)))
    skew = np.where(np.arange(1000) < 500, 1.5e-3, 0.5e-3)
    for triples, data, modes, kl in (*cases, (every, skew, 1000, -0.5 * np.log(0.75))):
        found = stacked_mnist.coverage(triples, data)
        assert found["modes"].mean == modes
        np.testing.assert_allclose(found["kl_nats"].mean, kl, atol=1e-12)
        np.testing.assert_allclose(found["floor"].mean, 999 / 40_000)


def test_a_perfect_sampler_is_at_the_floor_and_its_error_is_right() -> None:
    rng = np.random.default_rng(0)
    data = rng.dirichlet(np.full(1000, 20.0))
    draws = [stacked_mnist.coverage(rng.choice(1000, 20_000, p=data), data)["kl_nats"].mean for _ in range(60)]
    np.testing.assert_allclose(np.mean(draws), 999 / 40_000, rtol=0.02)
    # far from the data the error is that of the delta method
    other = rng.dirichlet(np.full(1000, 2.0))
    far = [stacked_mnist.coverage(rng.choice(1000, 20_000, p=other), data)["kl_nats"] for _ in range(60)]
    np.testing.assert_allclose(np.std([m.mean for m in far]), far[0].standard_error, rtol=0.3)


def test_every_channel_is_a_digit_of_the_triple(monkeypatch) -> None:
    monkeypatch.setattr(features, "labels", lambda found, images: images[:, 0, 0, 0].astype(int))
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[:, 0, 0] = [(1, 2, 3), (9, 0, 4)]
    np.testing.assert_array_equal(stacked_mnist.classified(None, images), [123, 904])


def test_committed_numbers_know_their_floor_and_the_classifiers_errors() -> None:
    """Real images, classified, are a little further from the data than by their labels; both are near the floor."""
    rows = {e["name"]: e["measured"] for e in json.loads(RESULTS.read_text("utf-8"))["rows"]}
    perfect = rows["perfect sampler"]
    assert abs(perfect["kl_nats"]["mean"] - perfect["floor"]["mean"]) < 4 * perfect["kl_nats"]["standard_error"]
    classified = rows["test images, classified"]
    assert classified["digit_accuracy"]["mean"] > 0.97
    assert perfect["floor"]["mean"] / 2 < classified["kl_nats"]["mean"] < 3 * perfect["floor"]["mean"]
    trained = [m for name, m in rows.items() if name.startswith("DDGAN, after")]
    assert trained and all(m["kl_nats"]["mean"] > classified["kl_nats"]["mean"] for m in trained)
