"""metrics.jsonl after a run was killed in the middle of a line, and what a person reads."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from etils import epath

from vdm_jax.training import metrics
from vdm_jax.training.metrics import TIMED, MetricsWriter, Progress, Stopwatch, duration, read, summary, truncate
from vdm_jax.training.step import BINS, COUNT, COUNT_BY_T, LOSS_BY_T, REPLACED, SKIPPED

LINES = [
    '{"step": 5, "split": "train", "loss": 1.25}',
    '{"step": 10, "split": "train", "loss": 1e-07}',
    '{"step": 10, "split": "test", "bits_per_dim": 3.0}',
    '{"step": 15, "split": "train", "loss": null}',
]
WHOLE = "".join(line + "\n" for line in LINES)


def file(tmp_path: Any, text: str) -> epath.Path:
    path = epath.Path(tmp_path) / "metrics.jsonl"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "step", "finished", "kept"),
    [
        (WHOLE, 15, False, LINES),
        (WHOLE, 14, False, LINES[:3]),
        (WHOLE, 10, True, LINES[:2]),
        (WHOLE, 0, False, []),
        (WHOLE + '{"step": 16, "spl', 15, False, LINES),
        (WHOLE[:-1], 15, False, LINES),  # a whole line without its end
        (WHOLE[:-9], 15, False, LINES[:3]),
        (LINES[0] + "\n" + LINES[1][:12] + "\n" + LINES[2] + "\n", 15, False, [LINES[0], LINES[2]]),
        ("\x00\x00\x00", 15, False, []),
        ("12\n[]\n{}\n" + LINES[0] + "\n", 15, False, LINES[:1]),
        ("", 15, False, []),
    ],
)
def test_truncation_keeps_whole_lines_up_to_the_step(
    text: str, step: int, finished: bool, kept: list[str], tmp_path: Any
) -> None:
    path = file(tmp_path, text)
    truncate(path, step, finished)
    assert path.read_text() == "".join(line + "\n" for line in kept)
    assert read(path) == [json.loads(line) for line in kept]
    assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]


def test_line_after_a_half_written_one_is_whole(tmp_path: Any) -> None:
    path = file(tmp_path, WHOLE[:-20])
    writer = MetricsWriter(path.parent)
    writer.begin(12)
    writer.write(15, "train", {"loss": 2.0, "grad_norm": math.inf})
    writer.close()
    last = {"step": 15, "split": "train", "loss": 2.0, "grad_norm": None}
    assert path.read_text().splitlines() == [*LINES[:3], json.dumps(last)]


def test_missing_file_is_no_error(tmp_path: Any) -> None:
    path = epath.Path(tmp_path) / "metrics.jsonl"
    truncate(path, 3)
    assert read(path) == [] and not path.exists()


def test_speed_waiting_and_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    watch, progress = Stopwatch(batch=8, flops_per_step=1e12, peak_flops=1e13), Progress(total=100)
    watch.restart(20)
    with watch.waiting():
        now[0] = 0.5
    now[0] = 2.0
    speed = watch.measure(30)
    assert speed == {
        "images_per_second": 10 * 8 / 2.0,
        "seconds_per_step": 0.2,
        "waiting_share": 0.25,
        "model_flops_utilization": 0.5,
    }
    assert tuple(speed) == TIMED
    progress.show(30, {"bits_per_dim": 3.25, "loss": 1.0, "grad_norm": 0.5}, speed)
    told = "step 30/100  bits_per_dim 3.2500  grad_norm 0.500  40 images/s  25% waiting  14s left\n"
    assert capsys.readouterr().out == told
    idle = watch.measure(30)  # no step since
    assert all(math.isnan(value) for value in idle.values())
    progress.show(30, {"loss": 1.0}, idle)
    assert capsys.readouterr().out == "step 30/100  loss 1.0000\n"
    progress.show(30, {"far/grad_norm": 1.0, "far/loss": 2.0, "near/loss": 1.0}, idle)  # of a run of two phases
    assert capsys.readouterr().out == "step 30/100  far/loss 2.0000  near/loss 1.0000\n"


def test_summary_of_a_window() -> None:
    by_t = np.zeros(BINS)
    by_t[[0, 9]] = 6.0, 8.0
    counts = np.zeros(BINS)
    counts[[0, 9]] = 3, 1
    window = {COUNT: 4.0, "loss": 10.0, SKIPPED: 1.0, REPLACED: 2.0, LOSS_BY_T: by_t, COUNT_BY_T: counts}
    values = summary(window)
    assert values["loss"] == 2.5 and values[SKIPPED] == 1.0 and values[REPLACED] == 2.0 and COUNT not in values
    assert values["loss_by_t/0.0-0.1"] == 2.0 and values["loss_by_t/0.9-1.0"] == 8.0
    assert math.isnan(values["loss_by_t/0.4-0.5"])
    assert math.isnan(summary(window | {COUNT: 0.0})["loss"])  # no step of it was applied


@pytest.mark.parametrize(("seconds", "text"), [(12.4, "12s"), (200, "3m20s"), (3600 + 125, "1h02m"), (59.6, "1m00s")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_in_a_bucket_are_there_when_a_checkpoint_is(
    bucket: epath.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bucket / "metrics.jsonl").write_text(WHOLE)
    writer = MetricsWriter(bucket)
    writer.begin(10)
    assert "no TensorBoard" in capsys.readouterr().err
    writer.write(12, "train", {"loss": 0.5})
    writer.write(14, "train", {"loss": 0.25})
    writer.flush()
    assert [row["step"] for row in read(bucket / "metrics.jsonl")] == [5, 10, 10, 12, 14]
    writer.write(16, "train", {"loss": 0.125})
    writer.close()
    assert [row["step"] for row in read(bucket / "metrics.jsonl")] == [5, 10, 10, 12, 14, 16]


def test_a_board_that_cannot_be_written_stops_nobody(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    writer = MetricsWriter(epath.Path(tmp_path))
    writer.begin(0)
    assert writer._board is not None
    thread = writer._board.file_writer.event_writer._worker
    thread.stop()
    thread.join()
    for step in range(1, 40):  # far more than the queue of the thread holds
        writer.write(step, "train", {"loss": 1.0, "grad_norm": 2.0})
    writer.close()
    assert capsys.readouterr().err.count("cannot be written any more") == 1
    assert len(read(epath.Path(tmp_path) / "metrics.jsonl")) == 39
