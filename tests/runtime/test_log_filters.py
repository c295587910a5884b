"""What Orbax prints beside the errors it raises is kept from the terminal, and nothing else is."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from typing import Any

import pytest
from absl import logging as absl_logging

from vdm_jax.runtime.log_filters import silence_orbax


class Dying:
    def __init__(self, error: Exception):
        self.error = error

    def __del__(self) -> None:
        raise self.error


def test_only_what_orbax_abandons_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(str(unraisable.exc_value)))
    silence_orbax.__wrapped__()
    for error in (RuntimeError("Event loop is closed"), RuntimeError("ours")):
        Dying(error)
        gc.collect()
    assert told == ["ours"]


def record(level: int, path: str, text: str = "") -> logging.LogRecord:
    return logging.LogRecord("name", level, path, 1, text, None, None)


def test_only_errors_of_orbax_are_not_logged() -> None:
    silence_orbax()
    passes = absl_logging.get_absl_logger().filter
    assert not passes(record(logging.ERROR, "/lib/orbax/checkpoint/x.py"))
    assert passes(record(logging.WARNING, "/lib/orbax/checkpoint/x.py"))
    assert passes(record(logging.ERROR, "/lib/grain/x.py"))
    about: Any = logging.getLogger(asyncio.__name__).filter
    assert not about(record(logging.ERROR, "tasks.py", "Task exception was never retrieved: /lib/orbax/x.py"))
    assert about(record(logging.ERROR, "tasks.py", "Task exception was never retrieved: ours.py"))
