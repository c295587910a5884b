"""SIGKILL at twenty random moments of a run, SIGTERM where it is awkward, and Ctrl-C."""

from __future__ import annotations

import pathlib
import random
import re
import shutil
import signal
import time
from typing import Any

import pytest

from tests.faults.commands import SWIRL, Place, lines, outcome, printed, steps, wait_for

MOMENTS = 20


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place.at(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def straight(place: Place) -> dict[str, Any]:
    place.run("straight", SWIRL)
    return outcome(place.folder / "straight")


def until_started(workdir: pathlib.Path, place: Place) -> float:
    """Seconds from the first sign of the run in its directory to its end."""
    with place.start(workdir.name, SWIRL) as running:
        wait_for(workdir.exists, running)
        begin = time.monotonic()
        assert running.wait()[0].status == 0
        return time.monotonic() - begin


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_a_run_ends_the_same(place: Place, straight: dict[str, Any]) -> None:
    rng = random.Random(20)
    whole = until_started(place.folder / "timed", place)
    killed_after = []
    for moment in range(MOMENTS):
        workdir = place.folder / f"killed-{moment}"
        # Every fourth compiles anew, so that some are killed while they do.
        cold = Place.at(place.folder, f"cold-{moment}") if moment % 4 == 0 else place
        with cold.start(workdir.name, SWIRL) as running:
            wait_for(workdir.exists, running)
            time.sleep(rng.random() * whole)
            ended = running.processes[0].poll() is not None
            running.kill()
        killed_after.append(-1 if ended else max(steps(workdir), default=0))
        place.run(workdir.name, SWIRL)
        assert outcome(workdir) == straight, f"moment {moment}, killed after the checkpoint of {killed_after[-1]}"
        assert not [path for path in workdir.rglob("*") if "-tmp" in path.name or path.suffix == ".tmp"]
        shutil.rmtree(workdir)
    print("killed after the checkpoints of", killed_after)
    assert sum(step >= 0 for step in killed_after) >= MOMENTS // 2  # most were not over yet
    assert len(set(killed_after)) >= 4  # and not all in one place


@pytest.mark.slow
def test_one_run_killed_again_and_again_ends_the_same(place: Place, straight: dict[str, Any]) -> None:
    rng, workdir = random.Random(7), place.folder / "again"
    starts = 0
    while max(steps(workdir), default=0) < 60:
        with place.start("again", SWIRL) as running:
            newest = max(steps(workdir), default=0)
            wait_for(lambda newest=newest: max(steps(workdir), default=0) > newest, running)
            time.sleep(rng.random() / 2)
            running.kill()
        starts += 1
    assert starts >= 3
    place.run("again", SWIRL)
    assert outcome(workdir) == straight


@pytest.mark.slow
def test_terminated_before_the_first_step_it_leaves_at_once(place: Place, straight: dict[str, Any]) -> None:
    slow_to_compile = (*SWIRL, "--config.model.width=128", "--config.model.depth=24", "--config.training.accumulate=16")
    with Place.at(place.folder, "cold").start("early", slow_to_compile) as running:
        wait_for(printed(running, "starting at step 0"), running)
        time.sleep(1)  # well into the compilation, where Python sees no signal
        assert running.processes[0].poll() is None
        running.processes[0].send_signal(signal.SIGTERM)
        done = running.wait(30)[0]
    assert done.status == 75, done
    assert "step " not in done.out.partition("starting at step 0")[2]
    assert steps(place.folder / "early") == []


@pytest.mark.slow
def test_terminated_while_it_evaluates_it_leaves_and_evaluates_again(place: Place, straight: dict[str, Any]) -> None:
    workdir = place.folder / "evaluating"
    endless = (*SWIRL, "--config.training.eval_examples=5000", "--config.evaluation.passes=1000")
    with place.start("evaluating", endless) as running:
        wait_for(lambda: 25 in steps(workdir), running)  # saved before the evaluation begins
        time.sleep(1)
        running.processes[0].send_signal(signal.SIGTERM)
        done = running.wait(30)[0]
    assert done.status == 75, done
    assert lines(workdir)[-1]["step"] == 24
    place.run("evaluating", SWIRL)
    # A checkpoint more than the straight run made lies there; what was trained and measured is the same.
    assert outcome(workdir) == straight


@pytest.mark.slow
def test_interrupted_it_saves_its_step_and_resumes(place: Place, straight: dict[str, Any]) -> None:
    workdir = place.folder / "interrupted"
    with place.start("interrupted", SWIRL) as running:
        wait_for(lambda: bool(steps(workdir)), running)
        running.processes[0].send_signal(signal.SIGINT)
        done = running.wait(60)[0]
    assert done.status == 130 and "Traceback" not in done.err, done
    (step,) = re.findall(r"vdm_jax: interrupted after step (\d+), which is saved; run the same command", done.err)
    assert int(step) == steps(workdir)[-1]
    place.run("interrupted", SWIRL)
    assert outcome(workdir) == straight


@pytest.mark.slow
def test_interrupted_twice_it_ends_at_once(place: Place) -> None:
    long_steps = (*SWIRL, "--config.data.batch_size=4096", "--config.training.accumulate=16")
    with place.start("twice", long_steps) as running:
        wait_for(printed(running, "step "), running)
        for _ in range(2):
            running.processes[0].send_signal(signal.SIGINT)
            time.sleep(0.05)
        done = running.wait(30)[0]
    assert done.status == 130 and "Traceback" not in done.err and "interrupted" in done.err, done
