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

    def __init__(self, workdir: epath.Path, start_step: int):
        self._active = jax.process_index() == 0
        self._path = workdir / "metrics.jsonl"
        if not self._active:
            return
        truncate(self._path, start_step)
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
    """The whole lines of a metrics file; a half-written last line is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def truncate(path: epath.Path, step: int) -> None:
    """Cut a metrics file back to the lines of steps ≤ `step`, in one replacement."""
    rows = read(path)
    if not path.exists() or (rows and all(row["step"] <= step for row in rows)):
        return
    kept = "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step)
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
        """Images per second since the last call."""
        before, then = self._since
        self._since = (step, time.monotonic())
        return (step - before) * self._batch / max(time.monotonic() - then, 1e-9)

    def show(self, step: int, values: Mapping[str, float], images_per_second: float) -> None:
        """The loss in bits/dim where there is one, images/s and time left."""
        name = "bits_per_dim" if "bits_per_dim" in values else "loss"
        if self._terminal:
            self._bar.set_postfix_str(f"{name} {values[name]:.4f}, {images_per_second:.0f} images/s")
        elif not self._quiet:
            left = (self._total - step) * self._batch / max(images_per_second, 1e-9)
            print(
                f"step {step}/{self._total}  {name} {values[name]:.4f}  grad_norm {values.get('grad_norm', 0):.3f}  "
                f"{images_per_second:.0f} images/s  {duration(left)} left",
                flush=True,
            )

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
