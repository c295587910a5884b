"""Every example once per pass, whatever the batch size and the number of devices; two kinds of error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.training.runs import FAST, mesh_of, points
from vdm_jax import conditioning, data, methods
from vdm_jax.config import base, with_variant
from vdm_jax.core.method import Method, PerExample
from vdm_jax.errors import UserError
from vdm_jax.evaluation import plots, report
from vdm_jax.evaluation.likelihood import per_example, sentence, summarize
from vdm_jax.keys import normal_like


def with_terms(method: Method, terms: Any) -> Method:
    """The method with another likelihood."""
    return method._replace(evaluators=(PerExample("bits_per_dim", terms, "vlb_continuous"),))


def probe() -> Method:
    """A 'likelihood' that tells which image it saw and which noise it was given."""

    def terms(params: Any, batch: Any, keys: Any) -> Any:
        pixels = batch["x"].reshape(len(keys), -1).astype(jnp.float32)
        weights = jnp.arange(1, pixels.shape[1] + 1, dtype=jnp.float32).reshape(1, -1)
        return {"total": (pixels * weights).sum(1), "noise": normal_like(keys, (), 0)}

    nothing: Any = None
    return with_terms(Method(nothing, ()), terms)


def batches_of(dataset: data.Dataset, size: int) -> Iterator[dict[str, Any]]:
    """The batches of a model without conditions."""
    return (conditioning.batch_of((), records) for records in data.eval_batches(dataset, batch_size=size))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "count"), [(64, 2), (50, 2), (7, 1), (297, 1), (298, 2), (1000, 2)])
def test_no_image_is_dropped_or_repeated(size: int, count: int) -> None:
    dataset = data.load("digits", "test")
    images = np.stack([dataset.source[k]["image"] for k in range(297)]).reshape(297, -1).astype(np.float64)
    batches = partial(batches_of, dataset, size)
    values = per_example(probe(), {}, batches, mesh_of(count), seed=3, passes=2)
    assert values["total"].dtype == np.float64
    expected = images @ np.arange(1, 65)
    np.testing.assert_array_equal(values["total"], np.stack([expected, expected]))
    keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(3), p), k) for p in range(2) for k in (0, 1, 296)]
    drawn = np.asarray([normal_like(key[None], (), 0)[0] for key in keys]).reshape(2, 3)
    np.testing.assert_array_equal(values["noise"][:, [0, 1, 296]], drawn)


def test_evaluations_of_a_run_share_what_is_compiled() -> None:
    traced = []

    def terms(params: Any, batch: Any, keys: Any) -> Any:
        traced.append(batch["x"].shape)
        return {"total": params + batch["x"].astype(jnp.float32).reshape(len(keys), -1).sum(1)}

    method = with_terms(probe(), terms)
    batches = partial(batches_of, data.load("digits", "test"), 100)
    first, second = (per_example(method, p, batches, mesh_of(2), seed=3, passes=2) for p in (0.0, 1.0))
    np.testing.assert_array_equal(first["total"] + 1, second["total"])
    assert traced == [(100, 8, 8, 1)]


@pytest.fixture(scope="module")
def trained() -> tuple[ConfigDict, Method, Any]:
    """The tiny MLP with every parameter random."""
    config = points()
    method = methods.build(config)
    leaves, tree = jax.tree.flatten(jax.jit(method.init, compiler_options=FAST)(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return config, method, jax.tree.unflatten(tree, moved)


@pytest.mark.slow
def test_values_do_not_depend_on_batch_size_or_devices(trained: Any) -> None:
    config, method, params = trained
    config.evaluation.passes = 2
    seen = []
    for size, count in ((16, 2), (7, 2), (5, 1)):
        config.evaluation.batch_size = size
        values, _ = report.measure(config, method, params, mesh_of(count), examples=19)
        assert values["total"].shape == (2, 19)
        seen.append(values)
    for other in seen[1:]:
        for name, value in other.items():
            np.testing.assert_allclose(value, seen[0][name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert not np.allclose(seen[0]["total"][0], seen[0]["total"][1])  # passes have noise of their own


@pytest.mark.slow
def test_examples_are_the_first_of_the_split(trained: Any) -> None:
    config, method, params = trained
    config.evaluation.passes, config.evaluation.batch_size = 1, 16
    few, about = report.measure(config, method, params, mesh_of(2), examples=3)
    more, _ = report.measure(config, method, params, mesh_of(2), examples=19)
    assert few["total"].shape == (1, 3)
    np.testing.assert_allclose(few["total"], more["total"][:, :3], rtol=1e-4, atol=1e-5)
    assert about == {
        "estimator": "vlb_continuous",
        "dataset": "swirl (spiral, noise 0.5, seed 0, 20,000/5,000)",
        "split": "test",
        "seed": 0,
    }


def test_errors_by_hand() -> None:
    total = np.asarray([[1.0, 2.0, 4.0], [3.0, 2.0, 5.0]])
    result = summarize({"total": total, "prior": total / 10, "t": total, "error": total})
    means = np.asarray([2.0, 2.0, 4.5])
    assert result["bits_per_dim"] == pytest.approx(17 / 6)
    assert result["prior"] == pytest.approx(1.7 / 6)
    assert result["standard_error"] == pytest.approx(np.sqrt(np.sum((means - means.mean()) ** 2) / 2 / 3))
    # variances over the passes: 2, 0, 1/2; the mean of six draws
    assert result["monte_carlo_error"] == pytest.approx(np.sqrt((2 + 0 + 0.5) / 3 / 6))
    assert (result["examples"], result["passes"]) == (3, 2)
    assert "t" not in result and "error" not in result and "total" not in result
    single = summarize({"total": total[:1]})
    assert single["monte_carlo_error"] is None and single["bits_per_dim"] == pytest.approx(7 / 3)


def test_monte_carlo_error_is_the_spread_over_new_noise() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(3.0, 1.0, 40)
    draws = images + 0.5 * rng.normal(size=(4000, 3, 40))
    spread = draws.mean((1, 2)).std()
    told = [summarize({"total": draw})["monte_carlo_error"] for draw in draws[:200]]
    np.testing.assert_allclose(np.mean(told), spread, rtol=0.05)
    # and the standard error is that of another draw of images
    fresh = rng.normal(3.0, 1.0, (4000, 1, 40))
    told = [summarize({"total": draw})["standard_error"] for draw in fresh[:200]]
    np.testing.assert_allclose(np.mean(told), fresh.mean((1, 2)).std(), rtol=0.05)


def test_result_is_told_with_what_it_was_measured_on() -> None:
    result = summarize({"total": np.asarray([[1.0, 2.0]])})
    about = {"estimator": "vlb_T=10", "dataset": "digits (v)", "split": "test", "weights": "ema", "step": 7}
    text = sentence(result | about)
    for part in ("test bits/dim 1.5000 ± 0.5000", "2 images", "one pass", "vlb_T=10", "digits (v)"):
        assert part in text
    assert "averaged weights (EMA), step 7" in text
    short = "averaged weights (EMA, decay 0.9999, about the last 12 steps), step 100"
    assert short in sentence(result | about | {"step": 100}, 0.9999)
    long = "averaged weights (EMA, decay 0.99, about the last 100 steps), step 3000"
    assert long in sentence(result | about | {"step": 3000}, 0.99)
    assert "raw weights (not averaged), step 7" in sentence(result | about | {"weights": "raw"}, 0.99)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "vlb_continuous"),
        ({"evaluation.num_timesteps": 1000}, "vlb_T=1000"),
        ({"evaluation.estimator": "ode"}, "ode"),
        ({"method": "ddpm", "schedule.kind": "ddpm_cosine"}, "vlb_T=1000"),
        ({"method": "ddpm", "schedule.kind": "constant_sigma", "evaluation.levels": 9}, "vlb_T=456, 9 levels an image"),
    ],
)
def test_estimator_names(changes: dict[str, Any], name: str) -> None:
    measured = methods.build(with_variant(base(), "v", {"v": changes})).measured
    assert measured is not None and measured.estimator == name


def test_values_that_are_not_finite_are_a_sentence(trained: Any, tmp_path: Any) -> None:
    from etils import epath

    config, method, params = trained
    bad = with_terms(method, lambda p, b, k: {"total": jnp.where(b["x"][:, 0] > 0, jnp.nan, 1.0)})
    with pytest.raises(UserError, match=r"NaN or infinite for \d+ of 20 examples"):
        report.write_evaluation(config, bad, params, mesh_of(2), epath.Path(tmp_path), 1)
    assert not (tmp_path / "eval.json").exists()


def test_result_says_whose_weights_and_no_plot_of_another_estimator_stays(trained: Any, tmp_path: Any) -> None:
    from etils import epath

    config, method, params = trained
    directory, plots = epath.Path(tmp_path / "run"), tmp_path / "run" / "plots"
    result = report.write_evaluation(config, method, params, mesh_of(2), directory, 1, source="published")
    assert json.loads((directory / "eval.json").read_text()) == result
    assert result["weights_from"] == "published" and "averaged weights (EMA) of published, step 1" in sentence(result)
    assert {path.name for path in plots.iterdir()} == {"schedule.png", "loss_by_t.png"}
    without_times = with_terms(method, lambda p, b, k: {"total": jnp.ones(len(k))})
    result = report.write_evaluation(config, without_times, params, mesh_of(2), directory, 1)
    assert "weights_from" not in result and "averaged weights (EMA), step 1" in sentence(result)
    assert {path.name for path in plots.iterdir()} == {"schedule.png"}


def test_curves_are_those_of_the_schedule(trained: Any) -> None:
    _, method, params = trained
    t, gamma, dgamma = plots.curves(method, params, mesh_of(2))
    assert gamma[[0, -1]] == pytest.approx([float(e) for e in method.schedule(params)[:2]])
    np.testing.assert_allclose((gamma[2:] - gamma[:-2]) / (t[2:] - t[:-2]), dgamma[1:-1], rtol=2e-2)


def test_method_without_a_likelihood_is_a_sentence() -> None:
    with pytest.raises(UserError, match="no likelihood"):
        per_example(probe()._replace(evaluators=()), {}, lambda: [], mesh_of(1), seed=0, passes=1)
