"""metrics.jsonl, TensorBoard and what a person sees while waiting."""

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

from vdm_jax.training.step import BINS, COUNT, COUNT_BY_T, LOSS_BY_T, REPLACED, SKIPPED

# The split that lines of training carry; an evaluation on training images is another.
TRAIN, EVALUATED_TRAIN = "train", "train_eval"
# Fields of a line that no two runs agree on.
TIMED = ("images_per_second", "seconds_per_step", "waiting_share", "model_flops_utilisation")


class MetricsWriter:
    """One flat JSON object a line, and the same for TensorBoard; only process 0 writes.

    Objects in a bucket cannot be appended to: there the file is written anew by `flush`, which the loop calls before
    it saves a checkpoint, so what a resumed run keeps is always there.
    """

    def __init__(self, workdir: epath.Path):
        self._active = jax.process_index() == 0
        self._workdir, self._path = workdir, workdir / "metrics.jsonl"
        self._board: SummaryWriter | None = None
        self._bucket = "://" in os.fspath(workdir)
        self._unwritten, self._text, self._begun = False, "", 0

    def begin(self, start_step: int, finished: bool = False) -> None:
        """Go on after `start_step`: what is said of later steps is cut off (see `truncate`)."""
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
            filename_suffix=f".{self._begun}",  # files are named by the second
        )

    def rewind(self, step: int) -> None:
        """Steps after `step` will be made again."""
        self.close()
        self.begin(step)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Append one line; values that are not finite are written as null."""
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
        """TensorBoard's writer is a thread that an error of the disk ends; its queue then blocks whoever fills it."""
        if self._board is None or self._board.file_writer.event_writer._worker.is_alive():
            return self._board
        print(f"TensorBoard's file in {self._workdir} cannot be written any more", file=sys.stderr, flush=True)
        self._board = None
        return None

    def flush(self) -> None:
        """All lines are in the file when this returns."""
        if board := self._living_board():
            board.flush()
        if self._unwritten:
            self._path.write_text(self._text)
            self._unwritten = False

    def close(self) -> None:
        """Flush both."""
        self.flush()
        if board := self._living_board():
            board.close()


def _can_reach_buckets() -> bool:
    try:
        return importlib.util.find_spec("google.cloud.storage") is not None
    except ModuleNotFoundError:
        return False


def read(path: epath.Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; a half-written one is left out."""
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
    """Cut a metrics file back to the whole lines of steps ≤ `step`, in one replacement.

    finished: no training follows, so the evaluation at `step` is made again and its line goes too.
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
    """The means of a window of metrics; NaN where it holds no step that was applied."""
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
    """The speed of training, leaving out what is not training, and what of it was waiting for images."""

    def __init__(self, batch: int, flops_per_step: float = 0.0, peak_flops: float = 0.0):
        """flops_per_step over peak_flops of all devices, where both are known, gives the utilisation."""
        self._batch, self._flops, self._peak = batch, flops_per_step, peak_flops
        self.restart(0)

    def restart(self, step: int) -> None:
        """Leave out what was before: compiling, evaluating, sampling."""
        self._step, self._since, self._waited = step, time.monotonic(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around whatever waits for the next batch."""
        before = time.monotonic()
        yield
        self._waited += time.monotonic() - before

    def measure(self, step: int) -> dict[str, float]:
        """TIMED since the last call, NaN if the clock has seen no step; and start again."""
        steps, seconds, waited = step - self._step, max(time.monotonic() - self._since, 1e-9), self._waited
        self.restart(step)
        if steps <= 0:
            return dict.fromkeys(TIMED[:3], math.nan)
        values = dict(zip(TIMED, (steps * self._batch / seconds, seconds / steps, waited / seconds), strict=False))
        if self._flops and self._peak:
            values["model_flops_utilisation"] = steps * self._flops / seconds / self._peak
        return values


class Progress:
    """A bar on a terminal, plain lines in a log; silent on other processes than the first."""

    def __init__(self, total: int):
        self._total = total
        self._terminal = sys.stderr.isatty()
        self._quiet = jax.process_index() != 0
        self._bar = self._new_bar(0)

    def _new_bar(self, start: int) -> tqdm:
        hidden = self._quiet or not self._terminal
        return tqdm(total=self._total, initial=start, unit="step", dynamic_ncols=True, disable=hidden)

    def begin(self, step: int) -> None:
        """Count from `step`."""
        self._bar.close()
        self._bar = self._new_bar(step)

    def advance(self, steps: int) -> None:
        """So many more steps were started."""
        self._bar.update(steps)

    def show(self, step: int, values: Mapping[str, float], speed: Mapping[str, float]) -> None:
        """The loss in bits/dim where there is one, or of each phase, images/s, the share of waiting and time left."""
        names = [known for known in ("bits_per_dim", "loss") if known in values][:1]
        names = names or [name for name in values if name.endswith("/loss")] or list(values)[:1]
        told = "  ".join(f"{name} {values[name]:.4f}" for name in names)
        rate, seconds, waiting = (speed[k] for k in TIMED[:3])
        timed = math.isfinite(rate)
        fast = f"{rate:.0f} images/s" if timed else ""
        slow = f"{waiting:.0%} waiting" if timed and waiting >= 0.01 else ""
        if self._terminal:
            self._bar.set_postfix_str(", ".join(filter(None, [told, fast, slow])))
        elif not self._quiet:
            left = duration((self._total - step) * seconds) + " left" if timed else ""
            norm = f"grad_norm {values['grad_norm']:.3f}" if "grad_norm" in values else ""
            what = f"step {step}/{self._total}", told, norm, fast, slow, left
            print("  ".join(filter(None, what)), flush=True)

    def say(self, text: str) -> None:
        """A line that does not break the bar."""
        if not self._quiet:
            tqdm.write(text, file=sys.stderr if self._terminal else sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def duration(seconds: float) -> str:
    """'1h02m', '3m20s', '12s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
