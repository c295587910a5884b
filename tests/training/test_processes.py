"""Two and four real processes of one job train, checkpoint, evaluate and sample what one process does."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from tests.processes import command_line, outputs
from vdm_jax.training.metrics import TIMED

RUN = [
    "--config=configs/swirl.py:smoke",
    "--config.data.batch_size=16",
    "--config.model.width=16",
    "--config.model.depth=1",
    "--config.schedule.features=4",
    "--config.optimizer.decay=constant",
    "--config.training.num_steps=12",
    "--config.training.log_every=4",
    "--config.training.checkpoint_every=6",
    "--config.training.eval_every=6",
    "--config.training.eval_examples=19",
    "--config.evaluation.examples=19",
    "--config.evaluation.batch_size=8",
    "--config.sampling.num_images=6",
    "--config.sampling.batch_size=4",
]


def results(folder: pathlib.Path, name: str, count: int, devices: int, *more: str) -> dict[str, Any]:
    """What a run of `count` processes with `devices` each leaves in its working directory."""
    workdir = folder / name
    outputs(command_line([*RUN, f"--workdir={workdir}", *more], count), folder, devices=devices, timeout=300)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        "metrics": [{k: v for k, v in row.items() if k not in TIMED} for row in rows],
        "eval": json.loads((workdir / "eval.json").read_text()),
        "samples": np.load(workdir / "samples" / "12.npz")["samples"],
        "checkpoints": sorted(int(path.name) for path in (workdir / "checkpoints").iterdir()),
    }


def assert_same(left: dict[str, Any], right: dict[str, Any], tolerance: float) -> None:
    assert left["checkpoints"] == right["checkpoints"] == [6, 12]
    assert [row["step"] for row in left["metrics"]] == [row["step"] for row in right["metrics"]] == [4, 6, 8, 12, 12]
    for a, b in zip([*left["metrics"], left["eval"]], [*right["metrics"], right["eval"]], strict=True):
        assert a.keys() == b.keys()
        for name, value in b.items():
            close = pytest.approx(value, rel=tolerance, abs=tolerance) if isinstance(value, float) else value
            assert a[name] == close, (name, b["step"])
    np.testing.assert_allclose(left["samples"], right["samples"], rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Any) -> None:
    one = results(tmp_path, "one", 1, 2)
    assert_same(results(tmp_path, "two", 2, 1), one, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["--config.training.parallelism=pmap", "--config.training.fsdp=2"])
def test_four_processes_train_as_one(way: str, tmp_path: Any) -> None:
    one = results(tmp_path, "one", 1, 4)
    assert_same(results(tmp_path, "four", 4, 1, way), one, 1e-4)
