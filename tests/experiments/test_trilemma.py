"""One tiny row of the trilemma: quality, coverage and speed of a GAN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from etils import epath

from experiments import common, models
from experiments.common import Row
from experiments.ddgan import trilemma
from tests.results import clearly, measured


@pytest.mark.slow
def test_a_tiny_gan_and_the_test_images_in_one_table(tmp_path: Path) -> None:
    size = {"samples": 64, "compared": 64, "repeats": 1}
    tiny: dict[str, Any] = {"model.width": 8, "model.groups": 2, "model.discriminator_width": 4}
    tiny |= {"training.num_steps": 4, "training.checkpoint_every": 4, "training.log_every": 2}
    tiny |= {"schedule.num_timesteps": 2, "sampling.num_steps": 2}
    test, gan = trilemma.rows("mini")[0], trilemma.rows("mini")[2]
    of = models.identity(trilemma.GAN_FILES["mini"], tiny)
    entries = [Row(test.name, {**test.config, **size}), Row(gan.name, {**gan.config, **of, **size})]
    about = {"experiment": "trilemma", "scale": "mini", "hardware": "cpu", "data": "digits", "command": "test"}
    measure = lambda row, seed: trilemma.measure(row, seed, epath.Path(tmp_path))
    results = common.fill(tmp_path / "r.json", about, entries, 1, measure)
    assert common.problems(results) == []
    real, drawn = (entry["measured"] for entry in results["rows"])
    assert real["recall"]["mean"] > 0.5 > drawn["recall"]["mean"]  # four steps of training cover nothing
    assert drawn["evaluations"]["mean"] == 2 and drawn["seconds"]["mean"] > 0
    trilemma.EXPERIMENT.plot(results)


def test_coverage_grows_with_the_steps_of_a_gan_and_ddim_is_nearer_the_data() -> None:
    rows = measured("trilemma")
    recall = [rows[f"DDGAN, T = {steps}"]["recall"]["mean"] for steps in trilemma.STEPS]
    assert recall == sorted(recall) and recall[-1] > recall[0] + 0.5
    gans, few = (rows[name]["frechet_unbiased"] for name in ("DDGAN, T = 4", "DDIM, 4 evaluations"))
    assert clearly(gans, few, errors=3)
