"""Real runs of the command line that are killed, terminated, damaged and started twice: as if nothing had happened."""

from __future__ import annotations

import os
import pathlib
import re
import signal
from typing import Any

import pytest

from tests.faults.commands import SWIRL, Place, outcome, printed, saving, steps, wait_for

PREEMPTED = 75


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place.at(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def straight(place: Place) -> dict[str, Any]:
    """What a run leaves that nothing happens to."""
    place.run("straight", SWIRL)
    found = outcome(place.folder / "straight")
    logged = [row["step"] for row in found["lines"] if row["split"] == "train"]
    tested = [row["step"] for row in found["lines"] if row["split"] == "test"]
    assert logged == list(range(3, 61, 3)) and tested == [25, 50, 60]
    return found


def cut_newest(workdir: pathlib.Path) -> int:
    """Cut the largest file of arrays in the newest checkpoint to half; its step."""
    newest = steps(workdir)[-1]
    files = (workdir / "checkpoints" / str(newest) / "state").rglob("d/*")
    largest = max(files, key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    return newest


@pytest.mark.slow
def test_a_run_that_much_happens_to_ends_as_if_nothing_had(place: Place, straight: dict[str, Any]) -> None:
    workdir = place.folder / "unlucky"

    # Killed while the step is compiled, which the banner comes just before; nothing is compiled in advance here.
    with Place.at(place.folder, "cold").start("unlucky", SWIRL) as running:
        wait_for(printed(running, "starting at step 0"), running)
        running.kill()
    assert steps(workdir) == []

    # A second job on its directory is refused, however long the first pauses; the first is killed while it saves.
    with place.start("unlucky", SWIRL) as first:
        owner = f'"pid": {first.processes[0].pid},'
        wait_for(lambda: owner in (workdir / ".lock").read_text(), first)  # the killed run's file is still there
        first.processes[0].send_signal(signal.SIGSTOP)
        with place.start("unlucky", SWIRL) as second:
            done = second.wait()[0]
        assert done.status == 2 and f"is in use by process {first.processes[0].pid} on " in done.err
        assert len(done.err.splitlines()) == 1
        first.processes[0].send_signal(signal.SIGCONT)
        wait_for(saving(workdir, after=4), first)
        first.kill()
    assert steps(workdir)[0] == 4

    # Asked to stop in the middle of its steps.
    with place.start("unlucky", SWIRL) as running:
        wait_for(printed(running, "  bits_per_dim "), running)
        running.processes[0].send_signal(signal.SIGTERM)
        done = running.wait(60)[0]
    assert done.status == PREEMPTED, done
    (saved,) = re.findall(r"terminated after step (\d+), which is saved", done.err)
    assert steps(workdir)[-1] == int(saved) < 60
    assert "resuming at step " in done.out

    # The newest checkpoint is damaged.
    damaged = cut_newest(workdir)
    before = steps(workdir)[-2]
    with place.start("unlucky", SWIRL) as running:
        done = running.wait()[0]
    assert done.status == 0 and "Traceback" not in done.err and "Exception" not in done.err, done
    assert f"checkpoint {damaged} is damaged (its state cannot be read: " in done.out
    assert f"resuming at step {before} " in done.out
    assert (workdir / "damaged" / str(damaged)).is_dir()

    assert outcome(workdir) == straight
    assert not [path for path in workdir.rglob("*") if path.name == ".lock" or "-tmp" in path.name]
