"""Messages about the data that are printed once per process."""

from __future__ import annotations

import sys
import threading

_said: set[str] = set()
_lock = threading.Lock()


def once(sentence: str) -> None:
    """Print a sentence to stderr unless this process has printed it, as a run opens a data set several times."""
    with _lock:  # otherwise the lines of two threads could interleave
        if sentence not in _said:
            _said.add(sentence)
            print(f"vdm_jax: {sentence}", file=sys.stderr, flush=True)


def forget() -> None:
    """Forget which sentences were printed."""
    _said.clear()
