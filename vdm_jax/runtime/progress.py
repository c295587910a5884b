"""Progress of evaluations and of sampling: a bar on a terminal, a line every so often in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax
from tqdm import tqdm

FIRST, EVERY = 5.0, 20.0  # seconds until the first line of a log, and between the following ones
T = TypeVar("T")


@contextlib.contextmanager
def shown(doing: str, total: int) -> Iterator[Callable[[], object]]:
    """Show the progress of `total` batches on process 0, as long as this context is open.

    Args:
      doing: what is done, such as 'sampling'.
      total: the number of batches.

    Yields:
      The function to call after each batch.
    """
    if jax.process_index() != 0:
        yield lambda: None
    elif sys.stderr.isatty():
        with tqdm(total=total, desc=doing, unit="batch", dynamic_ncols=True, leave=False) as bar:
            yield bar.update
    else:
        with _lines(doing, total) as advance:
            yield advance


@contextlib.contextmanager
def _lines(doing: str, total: int) -> Iterator[Callable[[], object]]:
    """Print lines from a thread, because one batch may take longer than the time between two lines."""
    done: list[float] = []  # when each batch ended
    began, ended = time.monotonic(), threading.Event()

    def report() -> None:
        wait = FIRST
        while not ended.wait(wait):
            with contextlib.suppress(OSError):  # the work itself meets a closed pipe or a full disk, and says so
                print(line(doing, len(done), total, time.monotonic() - began), flush=True)
            wait = EVERY

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield lambda: done.append(time.monotonic())
    finally:
        ended.set()
        thread.join()


def line(doing: str, done: int, total: int, seconds: float) -> str:
    """Return a line such as 'sampling: 3 of 16 batches in 20s, 1m27s left'; the first batch includes compilation."""
    if not done:
        return f"{doing}: compiling and running batch 1 of {total}, {duration(seconds)} so far"
    left = "" if done == total else f", {duration(seconds / done * (total - done))} left"
    return f"{doing}: {done} of {total} batches in {duration(seconds)}{left}"


def each(items: Iterable[T], advance: Callable[[], object]) -> Iterator[T]:
    """Yield items and call `advance` when the next one is asked for, after the work on the one before it."""
    for item in items:
        yield item
        advance()


def duration(seconds: float) -> str:
    """Format a duration as '1h02m', '3m20s' or '12s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
