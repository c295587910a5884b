"""Sets of samples as an evaluation: what it finds for the data themselves, and the result that a GAN gets."""

from __future__ import annotations

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests.training.runs import gan, mesh_of
from vdm_jax import data, methods, modes
from vdm_jax.errors import UserError
from vdm_jax.evaluation import report, sample_quality
from vdm_jax.evaluation.frechet import distance
from vdm_jax.training.loop import train


def test_features_are_area_means_of_pixels_between_minus_one_and_one() -> None:
    images = np.zeros((2, 16, 16, 1), np.uint8)
    images[1, :2, :2] = 255
    found = sample_quality.pixels(images, 256)
    assert found.shape == (2, 64) and np.all(found[0] == -1)
    assert found[1, 0] == 1 and np.all(found[1, 1:] == -1)
    points = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(sample_quality.pixels(points, None), points)


def test_samples_that_are_the_data_are_at_no_distance_and_moved_ones_are() -> None:
    """Equal sets: d² = 0, precision and recall 1. Moved by m: d² = ‖m‖² and nothing is covered."""
    config = gan()
    config.evaluation.num_samples = 200
    split = data.from_section(config.data, "test")
    real = np.stack([split.source[k]["image"] for k in range(200)])
    for shift, expected, covered in ((0.0, 0.0, 1.0), (100.0, 2e4, 0.0)):
        drawn = jnp.asarray(real + shift)
        sample = lambda params, keys, cond, num_steps, keep, drawn=drawn: (
            drawn[: len(keys)],
            jnp.zeros((0, len(keys))),
        )
        config.sampling.batch_size = 200
        method = methods.build(config)._replace(sample=sample)
        found = sample_quality.measure(config, method, {}, mesh_of(1), split)
        np.testing.assert_allclose(found["frechet_distance_biased"], expected, atol=1e-3, rtol=1e-3)
        assert found["precision"] == found["recall"] == covered
        assert (found["samples"], found["examples"], found["features"]) == (200, 200, "points")
        assert found["frechet_distance"] == distance(np.asarray(drawn, np.float64), real).corrected


def test_too_few_samples_are_refused_in_a_sentence() -> None:
    config = gan()
    config.evaluation.num_samples = 39
    with pytest.raises(UserError, match=r"num_samples=39 .* too few for a Fréchet distance; it needs 40"):
        sample_quality.measure(config, methods.build(config), {}, mesh_of(1), data.from_section(config.data, "test"))


@pytest.mark.slow
def test_a_gan_is_evaluated_by_its_samples(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    config = gan()
    config.evaluation.num_samples, config.sampling.batch_size = 60, 60
    directory = epath.Path(tmp_path)
    train(config, directory, finish=False)
    modes.run_eval(config, directory, None)
    found = json.loads((directory / "eval.json").read_text())
    assert (
        found["step"] == 12
        and found["weights"] == "ema"
        and set(found) == {"step", "weights", "sample_quality", "made_by"}
    )
    assert found["sample_quality"]["frechet_distance"] > 0 and found["sample_quality"]["samples"] == 60
    (line,) = report.sentences(found)
    assert line in capsys.readouterr().out and line.startswith("Fréchet distance ")
