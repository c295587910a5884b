"""One of several processes dies or is terminated: none hangs, and the job that is started again goes on."""

from __future__ import annotations

import pathlib
import re
import signal
from typing import Any

import numpy as np
import pytest

from tests.faults.commands import SWIRL, Place, lines, outcome, saving, steps, wait_for

# The checkpoints are made by several processes, so that one may die while the others wait for it in Orbax.
PAIR = (*SWIRL, "--heartbeat_seconds=10", "--config.data.threads=1")


@pytest.fixture
def place(shared: Place, tmp_path: pathlib.Path) -> Place:
    """A new folder, and the programs compiled so far."""
    return shared._replace(folder=tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place.at(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def straight(shared: Place) -> dict[str, Any]:
    """What two processes leave that nothing happens to."""
    shared.run("straight", PAIR, count=2)
    return outcome(shared.folder / "straight")


@pytest.mark.slow
def test_one_of_two_is_killed_and_the_other_ends(place: Place) -> None:
    workdir = place.folder / "pair"
    with place.start("pair", (*PAIR, "--config.training.eval_every=0"), count=2) as running:
        wait_for(lambda: steps(workdir), running)
        running.processes[1].kill()
        first, second = running.wait(90)
    assert second.status == -signal.SIGKILL
    assert first.status not in (0, 75), first
    assert len(lines(workdir)) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("moment", ["saving", "stepping"])
def test_the_restarted_pair_ends_as_the_straight_one(victim: int, moment: str, place: Place, straight: Any) -> None:
    workdir = place.folder / "pair"
    with place.start("pair", PAIR, count=2) as running:
        wait_for(lambda: len(steps(workdir)) > 1, running)
        if moment == "saving":
            wait_for(saving(workdir, after=max(steps(workdir))), running)
        running.processes[victim].kill()
        done = running.wait(120)
    assert done[victim].status == -signal.SIGKILL and done[1 - victim].status not in (0, 75), done
    place.run("pair", PAIR, count=2)
    assert outcome(workdir) == straight


@pytest.mark.slow
@pytest.mark.parametrize("asked", [(0,), (1,), (0, 1)])
def test_a_terminated_pair_saves_the_same_step_and_goes_on(asked: tuple[int, ...], place: Place, straight: Any) -> None:
    workdir = place.folder / "pair"
    with place.start("pair", PAIR, count=2) as running:
        wait_for(lambda: len(steps(workdir)) > 1, running)
        for index in asked:
            running.processes[index].send_signal(signal.SIGTERM)
        done = running.wait(30)
    assert [process.status for process in done] == [75, 75], done
    (saved,) = {step for process in done for step in re.findall(r"terminated after step (\d+)", process.err)}
    assert steps(workdir)[-1] == int(saved)
    place.run("pair", PAIR, count=2)
    assert outcome(workdir) == straight


@pytest.mark.slow
def test_a_run_moves_between_machines(place: Place) -> None:
    moves = [
        (15, 1, 8, ()),
        (25, 1, 1, ()),
        (35, 4, 1, ("--config.training.parallelism=pmap",)),
        (45, 2, 2, ("--config.training.fsdp=2",)),
        (60, 1, 4, ("--config.training.parallelism=pmap",)),
    ]
    common = (*PAIR, "--config.optimizer.decay=constant", "--config.model.width=64")  # wide enough for fsdp to split
    for last, count, devices, extra in moves:
        place.run("moved", (*common, f"--config.training.num_steps={last}", *extra), count, devices)
    place.run("straight", common)
    moved = [row for row in lines(place.folder / "moved") if row["split"] == "train" or row["step"] in (25, 50, 60)]
    kept = lines(place.folder / "straight")
    assert [row["step"] for row in moved] == [row["step"] for row in kept]
    for a, b in zip(moved, kept, strict=True):
        np.testing.assert_allclose(a["bits_per_dim"], b["bits_per_dim"], rtol=1e-3, err_msg=str(a["step"]))


@pytest.mark.slow
def test_a_pair_is_refused_where_another_job_is(place: Place) -> None:
    workdir = place.folder / "taken"
    with place.start("taken", PAIR) as first:
        wait_for(lambda: (workdir / ".lock").exists() and "pid" in (workdir / ".lock").read_text(), first)
        first.processes[0].send_signal(signal.SIGSTOP)
        with place.start("taken", PAIR, count=2) as pair:
            done = pair.wait(120)
    assert [process.status for process in done] == [2, 2], done
    assert "is in use by process " in done[0].err and "is in use by another job" in done[1].err
