"""Progress: a line every so often in a log, also while one batch takes long, and nothing for what is quick."""

from __future__ import annotations

import time
from typing import Any

import pytest

from vdm_jax.runtime import progress


def test_lines_say_how_many_batches_are_done_and_left() -> None:
    assert progress.line("sampling", 0, 4, 7.4) == "sampling: compiling and running batch 1 of 4, 7s so far"
    assert progress.line("sampling", 3, 16, 20.0) == "sampling: 3 of 16 batches in 20s, 1m27s left"  # 13 of 20/3 s
    assert progress.line("evaluating", 2, 2, 61.0) == "evaluating: 2 of 2 batches in 1m01s"


@pytest.mark.parametrize(("seconds", "text"), [(12, "12s"), (200, "3m20s"), (3720, "1h02m")])
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_item_counts_when_the_work_on_it_has_ended() -> None:
    seen: list[Any] = []
    for item in progress.each("ab", lambda: seen.append("counted")):
        seen.append(item)
    assert seen == ["a", "counted", "b", "counted"]


def test_log_has_lines_during_a_long_batch_and_none_for_a_quick_one(monkeypatch: Any, capsys: Any) -> None:
    with progress.shown("evaluating", 1) as advance:
        advance()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(progress, "FIRST", 0.02)
    monkeypatch.setattr(progress, "EVERY", 0.02)
    with progress.shown("evaluating", 2) as advance:
        time.sleep(0.2)
        advance()
        time.sleep(0.2)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "evaluating: compiling and running batch 1 of 2, 0s so far"
    assert told[-1].startswith("evaluating: 1 of 2 batches in 0s")
    time.sleep(0.1)
    assert capsys.readouterr().out == ""  # the thread has ended


def test_terminal_has_a_bar(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with progress.shown("sampling", 2) as advance:
        advance()
    said = capsys.readouterr()
    assert said.out == "" and "sampling:" in said.err and "0/2" in said.err
