"""metrics.jsonl, TensorBoard and what a person sees while waiting."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from tensorboardX import SummaryWriter
from tqdm import tqdm


class MetricsWriter:
    """One flat JSON object a line, and the same for TensorBoard; only process 0 writes."""

    def __init__(self, workdir: epath.Path, start_step: int, finished: bool = False):
        self._active = jax.process_index() == 0
        self._path = workdir / "metrics.jsonl"
        if not self._active:
            return
        truncate(self._path, start_step, finished)
        self._board = SummaryWriter(str(workdir), purge_step=start_step + 1 if start_step else None)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Append one line; values that are not finite are written as null."""
        if not self._active:
            return
        clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, "split": split, **clean}) + "\n")
        for name, value in clean.items():
            if value is not None:
                self._board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._active:
            self._board.close()


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
        if row is None or row["step"] > step or (finished and row["step"] == step and row["split"] != "train"):
            continue
        kept += line + "\n"
    if kept != text:
        scratch = path.parent / (path.name + ".tmp")
        scratch.write_text(kept)
        scratch.replace(path)


class Progress:
    """A bar on a terminal, plain lines in a log; silent on other processes than the first."""

    def __init__(self, total: int, start: int, batch: int):
        self._batch, self._total = batch, total
        self._terminal = sys.stderr.isatty()
        self._quiet = jax.process_index() != 0
        self._bar = tqdm(
            total=total, initial=start, unit="step", dynamic_ncols=True, disable=self._quiet or not self._terminal
        )
        self._since = (start, time.monotonic())

    def advance(self) -> None:
        """One more step was started."""
        self._bar.update(1)

    def restart_clock(self, step: int) -> None:
        """Leave out of the speed what was not training: compiling, evaluating, sampling."""
        self._since = (step, time.monotonic())

    def speed(self, step: int) -> float:
        """Images per second since the last call; NaN if the clock has seen no step."""
        before, then = self._since
        self._since = (step, time.monotonic())
        if step == before:
            return math.nan
        return (step - before) * self._batch / max(time.monotonic() - then, 1e-9)

    def show(self, step: int, values: Mapping[str, float], images_per_second: float) -> None:
        """The loss in bits/dim where there is one, images/s and time left."""
        name = next((known for known in ("bits_per_dim", "loss") if known in values), next(iter(values)))
        timed = math.isfinite(images_per_second)
        speed = f"{images_per_second:.0f} images/s" if timed else ""
        if self._terminal:
            self._bar.set_postfix_str(", ".join(filter(None, [f"{name} {values[name]:.4f}", speed])))
        elif not self._quiet:
            left = duration((self._total - step) * self._batch / images_per_second) + " left" if timed else ""
            norm = f"grad_norm {values['grad_norm']:.3f}" if "grad_norm" in values else ""
            what = f"step {step}/{self._total}", f"{name} {values[name]:.4f}", norm, speed, left
            print("  ".join(filter(None, what)), flush=True)

    def say(self, text: str) -> None:
        """A line that does not break the bar."""
        if not self._quiet:
            tqdm.write(text, file=sys.stderr if self._terminal else sys.stdout)

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
