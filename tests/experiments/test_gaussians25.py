"""The coverage of 25 Gaussians by samples whose numbers are known, and one tiny row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath

from experiments import common
from experiments.common import Row
from experiments.ddgan import gaussians25
from vdm_jax import data
from vdm_jax.data.arrays import GAUSSIANS_DEVIATION, gaussians25_centers

NAMES = ("near", "modes", "kl_nats")


def found(points: np.ndarray) -> tuple[float, ...]:
    return tuple(gaussians25.coverage(points)[name].mean for name in NAMES)


def test_coverage_of_known_samples() -> None:
    """Of the data .9997 (1 − e^{−8}) within 4 σ; of half the modes KL ln(25/12); strays count for nothing."""
    centers = gaussians25_centers()
    near, modes, kl = found(data.load("gaussians25", "test").source.images.astype(np.float64))
    np.testing.assert_allclose(near, 1 - np.exp(-8), atol=5e-4)
    assert modes == 25 and kl < 3 * 24 / (2 * 10_000)
    half = np.repeat(centers[:12], 100, axis=0)
    np.testing.assert_allclose(found(half), (1, 12, np.log(25 / 12)))
    strays = np.concatenate([half, half + 4.01 * GAUSSIANS_DEVIATION])
    np.testing.assert_allclose(found(strays), (0.5, 12, np.log(25 / 12)))
    few = np.concatenate([np.repeat(centers[:1], 9990, 0), np.repeat(centers[1:2], 19, 0)])
    assert found(few)[1] == 1
    np.testing.assert_allclose(found(np.full((10, 2), 9.0)), (0, 0, np.log(25)))


def test_rows_are_legal_at_both_scales() -> None:
    for scale in common.SCALES:
        assert [row.name for row in gaussians25.rows(scale)] == list(gaussians25.ROWS)


@pytest.mark.slow
def test_a_tiny_row_of_each_method(tmp_path: Path) -> None:
    tiny: dict[str, Any] = {"model.width": 8, "data.batch_size": 32, "training.num_steps": 20, "training.log_every": 5}
    tiny |= {"training.steps_per_call": 5, "sampling.num_images": 200, "sampling.batch_size": 200}
    names = ["T = 4, direct", "DDPM, 50 steps"]
    entries = [
        Row(name, gaussians25.models.identity(gaussians25.FILE, {**gaussians25.ROWS[name], **tiny})) for name in names
    ]
    about = {"experiment": "gaussians25", "scale": "mini", "hardware": "cpu", "data": "points", "command": "test"}
    measure = lambda row, seed: gaussians25.measure(row, seed, epath.Path(tmp_path))
    results = common.fill(tmp_path / "r.json", about, entries, 1, measure)
    assert common.problems(results) == []
    assert [entry["measured"]["calls"]["mean"] for entry in results["rows"]] == [4, 50]
    assert all(entry["measured"]["training_seconds"]["mean"] > 0 for entry in results["rows"])


def test_committed_rows_say_what_the_notes_do() -> None:
    """Three seeds: R1 makes one step cover the modes, the latent carries the four steps, many steps are sure."""
    file = Path(gaussians25.__file__).parent.parent / "results" / "gaussians25.json"
    entries = json.loads(file.read_text("utf-8"))["rows"]
    assert [entry["name"] for entry in entries] == list(gaussians25.ROWS)
    assert all(set(entry["runs"]) == {"1", "2", "3"} for entry in entries)
    modes, near, kl = (
        {entry["name"]: entry["measured"][name]["mean"] for entry in entries} for name in ("modes", "near", "kl_nats")
    )
    assert modes["GAN"] < 21 < modes["GAN with R1"] == 25 and kl["GAN"] > 20 * kl["GAN with R1"]
    assert modes["T = 4, no latent"] < 6 and near["T = 4, no latent"] < 0.05
    assert near["T = 4, direct"] < near["DDGAN, T = 4"] < near["GAN with R1"] < near["DDPM, 50 steps"] < 0.95
    assert near["DDPM, 500 steps"] > 0.98 and modes["DDPM, 500 steps"] == 25
