"""Writing metrics.jsonl and TensorBoard files, measuring speed, and showing progress."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from tensorboardX import SummaryWriter
from tqdm import tqdm

from vdm_jax.runtime.progress import duration
from vdm_jax.training.step import BINS, COUNT, COUNT_BY_T, LOSS_BY_T, REPLACED, SKIPPED

# Split names of training lines and of evaluations on the training split.
TRAIN, EVALUATED_TRAIN = "train", "train_eval"
# Timing fields, which differ between otherwise identical runs.
TIMED = ("images_per_second", "seconds_per_step", "waiting_share", "model_flops_utilization")


class MetricsWriter:
    """Writes metrics as one flat JSON object per line and to TensorBoard; only process 0 writes.

    Objects in a bucket cannot be appended to. There `flush` rewrites the file, and the loop calls it before each
    checkpoint, so all lines that a resumed run keeps have been written.
    """

    def __init__(self, workdir: epath.Path):
        self._active = jax.process_index() == 0
        self._workdir, self._path = workdir, workdir / "metrics.jsonl"
        self._board: SummaryWriter | None = None
        self._bucket = "://" in os.fspath(workdir)
        self._unwritten, self._text, self._begun = False, "", 0

    def begin(self, start_step: int, finished: bool = False) -> None:
        """Continue after `start_step`; lines of later steps are removed (see `truncate`)."""
        if not self._active:
            return
        truncate(self._path, start_step, finished)
        if self._bucket and self._path.exists():
            self._text = self._path.read_text()
        if self._bucket and not _can_reach_buckets():
            print(f"no TensorBoard in {self._workdir}: that needs `pip install google-cloud-storage`", file=sys.stderr)
            return
        self._begun += 1
        self._board = SummaryWriter(
            os.fspath(self._workdir),
            purge_step=start_step + 1 if start_step else None,
            filename_suffix=f".{self._begun}",  # file names have a resolution of one second
        )

    def rewind(self, step: int) -> None:
        """Remove the lines after `step`, because these steps are re-run."""
        self.close()
        self.begin(step)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Append one line; non-finite values are written as null."""
        if not self._active:
            return
        clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
        line = json.dumps({"step": step, "split": split, **clean}) + "\n"
        if self._bucket:
            self._text, self._unwritten = self._text + line, True
        else:
            with self._path.open("a") as file:
                file.write(line)
        for name, value in clean.items():
            if value is not None and (board := self._living_board()):
                board.add_scalar(f"{split}/{name}", value, step)

    def _living_board(self) -> SummaryWriter | None:
        """Return TensorBoard's writer, or None once its thread has died of a disk error: its queue would then block."""
        if self._board is None or self._board.file_writer.event_writer._worker.is_alive():
            return self._board
        print(f"TensorBoard's file in {self._workdir} cannot be written any more", file=sys.stderr, flush=True)
        self._board = None
        return None

    def flush(self) -> None:
        """Write all pending lines."""
        if board := self._living_board():
            board.flush()
        if self._unwritten:
            self._path.write_text(self._text)
            self._unwritten = False

    def close(self) -> None:
        """Flush and close both files."""
        self.flush()
        if board := self._living_board():
            board.close()


def _can_reach_buckets() -> bool:
    try:
        return importlib.util.find_spec("google.cloud.storage") is not None
    except ModuleNotFoundError:
        return False


def read(path: epath.Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file; an incomplete line is skipped."""
    if not path.exists():
        return []
    return [row for line in path.read_text().splitlines() if (row := _row(line))]


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and "step" in row and "split" in row else None


def truncate(path: epath.Path, step: int, finished: bool = False) -> None:
    """Remove the lines of steps after `step` and incomplete lines from a metrics file, atomically.

    finished: no training follows; the evaluation at `step` is re-run, so its line is removed too.
    """
    if not path.exists():
        return
    text = path.read_text()
    kept = ""
    for line in text.splitlines():
        row = _row(line)
        if row is None or row["step"] > step or (finished and row["step"] == step and row["split"] != TRAIN):
            continue
        kept += line + "\n"
    if kept != text:
        scratch = path.parent / (path.name + ".tmp")
        scratch.write_text(kept)
        scratch.replace(path)


def summary(window: Mapping[str, Any]) -> dict[str, float]:
    """Return the means of a window of metrics, or NaN if no step in it was applied."""
    count = float(window[COUNT])
    values = {}
    for name, total in window.items():
        if np.ndim(total) == 0 and name != COUNT:
            values[name] = float(total) if name in (SKIPPED, REPLACED) else _ratio(float(total), count)
        if name.endswith(LOSS_BY_T):
            sums, counts = np.asarray(total), np.asarray(window[name.replace(LOSS_BY_T, COUNT_BY_T)])
            for k in range(BINS):
                values[f"{name}/{k / BINS:.1f}-{(k + 1) / BINS:.1f}"] = _ratio(float(sums[k]), float(counts[k]))
    return values


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan


class Stopwatch:
    """Measures the speed of training and the share of time spent waiting for data."""

    def __init__(self, batch: int, flops_per_step: float = 0.0, peak_flops: float = 0.0):
        """Start the clock; nonzero flops_per_step and peak_flops (of all devices) enable the utilization."""
        self._batch, self._flops, self._peak = batch, flops_per_step, peak_flops
        self.restart(0)

    def restart(self, step: int) -> None:
        """Restart the clock at `step`, to exclude compilation, evaluation and sampling."""
        self._step, self._since, self._waited = step, time.monotonic(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside this context as waiting for data."""
        before = time.monotonic()
        yield
        self._waited += time.monotonic() - before

    def measure(self, step: int) -> dict[str, float]:
        """Return the values of TIMED since the last call, NaN if there was no step, and restart the clock."""
        steps, seconds, waited = step - self._step, max(time.monotonic() - self._since, 1e-9), self._waited
        self.restart(step)
        if steps <= 0:
            return dict.fromkeys(TIMED[:3], math.nan)
        values = dict(zip(TIMED, (steps * self._batch / seconds, seconds / steps, waited / seconds), strict=False))
        if self._flops and self._peak:
            values["model_flops_utilization"] = steps * self._flops / seconds / self._peak
        return values


class Progress:
    """Shows a progress bar on a terminal and plain lines in a log; silent on all processes but process 0."""

    def __init__(self, total: int):
        self._total = total
        self._terminal = sys.stderr.isatty()
        self._quiet = jax.process_index() != 0
        self._bar = self._new_bar(0)

    def _new_bar(self, start: int) -> tqdm:
        hidden = self._quiet or not self._terminal
        return tqdm(total=self._total, initial=start, unit="step", dynamic_ncols=True, disable=hidden)

    def begin(self, step: int) -> None:
        """Restart the bar at `step`."""
        self._bar.close()
        self._bar = self._new_bar(step)

    def advance(self, steps: int) -> None:
        """Advance the bar by `steps`."""
        self._bar.update(steps)

    def show(self, step: int, values: Mapping[str, float], speed: Mapping[str, float]) -> None:
        """Show bits/dim or the losses, images/s, the share of time spent waiting, and the remaining time."""
        names = [known for known in ("bits_per_dim", "loss") if known in values][:1]
        names = names or [name for name in values if name.endswith("/loss")] or list(values)[:1]
        losses = "  ".join(f"{name} {values[name]:.4f}" for name in names)
        rate, seconds, waiting = (speed[k] for k in TIMED[:3])
        timed = math.isfinite(rate)
        fast = f"{rate:.0f} images/s" if timed else ""
        slow = f"{waiting:.0%} waiting" if timed and waiting >= 0.01 else ""
        if self._terminal:
            self._bar.set_postfix_str(", ".join(filter(None, [losses, fast, slow])))
        elif not self._quiet:
            left = duration((self._total - step) * seconds) + " left" if timed else ""
            norm = f"grad_norm {values['grad_norm']:.3f}" if "grad_norm" in values else ""
            what = f"step {step}/{self._total}", losses, norm, fast, slow, left
            print("  ".join(filter(None, what)), flush=True)

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        if not self._quiet:
            tqdm.write(text, file=sys.stderr if self._terminal else sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """Close the bar and leave it on the screen."""
        self._bar.close()
