"""Sentences about the data that a user should read once."""

from __future__ import annotations

import sys
import threading

_said: set[str] = set()
_lock = threading.Lock()


def once(sentence: str) -> None:
    """Print on stderr what this process has not said before: a data set is opened several times in a run."""
    with _lock:  # else lines of two threads would be printed one within the other
        if sentence not in _said:
            _said.add(sentence)
            print(f"vdm_jax: {sentence}", file=sys.stderr, flush=True)


def forget() -> None:
    """Say everything again."""
    _said.clear()
