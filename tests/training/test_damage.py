"""Checkpoints that were damaged on the disk: noticed whatever file it is, passed over, kept."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from tests.training.states import Position, assert_same, contents, files, flip, largest, like, tiny
from vdm_jax.errors import UserError
from vdm_jax.runtime import checkpoints
from vdm_jax.training.state import TrainState

STEPS = (3, 6, 9)


LIKE = like(tiny(0))


def fill(directory: epath.Path, *numbers: int, keep: int = 3, keep_every: int = 0) -> None:
    saver = checkpoints.manager(directory, keep, keep_every)
    for step in numbers:
        checkpoints.save(saver, tiny(step), Position(step))
    checkpoints.finish(saver)
    saver.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    directory = epath.Path(tmp_path_factory.mktemp("written"))
    fill(directory, *STEPS)
    return directory


@pytest.fixture
def run(written: epath.Path, tmp_path: pathlib.Path) -> epath.Path:
    return epath.Path(shutil.copytree(written, tmp_path / "run"))


class Restored:
    """What `restore_newest` did."""

    def __init__(self, directory: epath.Path, abstract: TrainState = LIKE):
        self.said: list[str] = []
        self.position = Position()
        self.saver = checkpoints.manager(directory, 3)
        try:
            found = checkpoints.restore_newest(self.saver, abstract, self.position, self.said.append)
        finally:
            self.steps = list(self.saver.all_steps())
            self.saver.close()
        self.state, self.step = found if found else (None, None)


HARM: dict[str, Callable[[pathlib.Path], object]] = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "removed": lambda path: path.unlink(),
    "flipped": lambda path: flip(path, 4 * path.stat().st_size),
}

GONE = "its state cannot be read: files are missing, cut short or changed, of [a-z._]+[)]; moved"
BREAK: dict[str, tuple[Callable[[epath.Path], object], str]] = {
    "cut": (lambda step: HARM["cut"](largest(step)), GONE),
    "emptied": (lambda step: HARM["emptied"](largest(step)), GONE),
    "a file is missing": (lambda step: largest(step).unlink(), GONE),
    "no state": (lambda step: (step / "state").rmtree(), "its state is missing"),
    "no data": (lambda step: (step / "data").rmtree(), "its data is missing"),
    "no checksums": (lambda step: (step / "checksum").rmtree(), "its checksum is missing"),
    "no metadata": (lambda step: (step / "state" / "_METADATA").unlink(), "its state cannot be read"),
    "garbage": (
        lambda step: (step / "checksum" / "metadata").write_text("{]"),
        "its checksum cannot be read: it is not JSON, Exp",
    ),
    "no position": (lambda step: (step / "data" / "metadata").unlink(), "its data cannot be read"),
    "neither checksums nor list": (
        lambda step: ((step / "checksum").rmtree(), (step / "_CHECKPOINT_METADATA").unlink()),
        "its list of items cannot be read",
    ),
    "another position": (lambda step: (step / "data" / "metadata").write_text('{"next_index": 8}'), "data position"),
    "another record": (lambda step: (step / "checksum" / "metadata").write_text("{}"), "record of checksums"),
    "nothing in it": (lambda step: (step.rmtree(), step.mkdir()), "it is empty"),
}


@pytest.mark.parametrize("damage", BREAK)
def test_damaged_checkpoint_is_passed_over_and_kept(damage: str, run: epath.Path) -> None:
    harm, how = BREAK[damage]
    harm(run / "checkpoints" / "9")
    broken = [digest for path, digest in contents(run).items() if "/checkpoints/9/" in path]
    found = Restored(run)
    assert found.step == 6 and found.steps == [3, 6]
    assert_same(found.state, tiny(6))
    assert found.position.index == 6
    (sentence,) = found.said
    assert re.match(rf"checkpoint 9 is damaged \(.*{how}", sentence)
    assert re.search(r"\); moved to .*/damaged/9, using step 6 instead$", sentence)
    assert [digest for path, digest in contents(run).items() if "/damaged/9/" in path] == broken
    fill(run, 9)  # the run comes by step 9 again
    again = Restored(run)
    assert (again.step, again.said, again.steps) == (9, [], [3, 6, 9])
    assert_same(again.state, tiny(9))


@pytest.mark.parametrize("harm", HARM)
def test_whatever_file_is_harmed_the_state_is_one_that_was_saved(harm: str, written: epath.Path, tmp_path: Any) -> None:
    names = [path.relative_to(written) for path in files(written / "checkpoints" / "9")]
    names = [name for name in names if name.name != "commit_success.txt"]  # for buckets only
    noticed = 0
    for number, name in enumerate(names):
        directory = epath.Path(shutil.copytree(written, tmp_path / str(number)))
        HARM[harm](pathlib.Path(directory) / name)
        found = Restored(directory)
        assert found.step in (6, 9), name
        assert (found.step == 6) == bool(found.said)
        assert_same(found.state, tiny(found.step))
        assert found.position.index == found.step
        noticed += found.step == 6
    assert noticed >= 5  # not all of Orbax's files are needed


def test_flipped_bits_in_the_arrays_are_noticed(written: epath.Path, tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    size = 8 * largest(written / "checkpoints" / "9").stat().st_size
    told = []
    for number, bit in enumerate(rng.integers(size // 8, size // 2, 12)):  # the middle of the arrays' bytes
        directory = epath.Path(shutil.copytree(written, tmp_path / str(number)))
        flip(largest(directory / "checkpoints" / "9"), int(bit))
        found = Restored(directory)
        assert_same(found.state, tiny(found.step))
        told += found.said
    assert len(told) == 12


def test_several_damaged_checkpoints_are_passed_over(run: epath.Path) -> None:
    (run / "damaged" / "9").mkdir(parents=True)  # taken by an earlier accident
    for step in (6, 9):
        largest(run / "checkpoints" / str(step)).unlink()
    found = Restored(run)
    assert found.step == 3 and found.steps == [3]
    assert [re.findall(r"checkpoint (\d) .*/damaged/(\S+),.* step (\d)", line)[0] for line in found.said] == [
        ("9", "9-2", "3"),
        ("6", "6", "3"),
    ]
    assert_same(found.state, tiny(3))


def test_all_damaged_is_a_sentence_and_nothing_is_moved(run: epath.Path) -> None:
    for step in STEPS:
        largest(run / "checkpoints" / str(step)).unlink()
    before = contents(run)
    with pytest.raises(UserError, match=r"all checkpoints in .* are damaged \(9: .*; 6: .*; 3: .*\); restore one"):
        Restored(run)
    assert contents(run) == before


WRONG: dict[str, tuple[Callable[[TrainState], TrainState], str]] = {
    "missing": (lambda s: s._replace(extra={"half": s.extra["half"]}), r"extra/key is not part of this model and 1 "),
    "extra": (lambda s: s._replace(window={**s.window, "new": s.step}), r"window/new is missing from it"),
    "shape": (
        lambda s: s._replace(ema={"dense": {**s.ema["dense"], "bias": s.step}}),
        r"ema/dense/bias is float32 \(64,\) in it and int32 \(\) here",
    ),
    "dtype": (
        lambda s: s._replace(extra={**s.extra, "half": s.typical}),
        r"extra/half is bfloat16 \(\) in it and float32 \(\) here",
    ),
}


@pytest.mark.parametrize("harmed", [False, True])
@pytest.mark.parametrize("wrong", WRONG)
def test_another_structure_is_no_damage(wrong: str, harmed: bool, run: epath.Path) -> None:
    change, told = WRONG[wrong]
    if harmed:
        largest(run / "checkpoints" / "9").unlink()
    before = contents(run)
    with pytest.raises(UserError, match=f"belongs to another model or version .*{told}"):
        Restored(run, change(LIKE))
    assert contents(run) == before


def test_the_version_that_wrote_a_run_is_named(run: epath.Path) -> None:
    (run / "config.json").write_text(json.dumps({"versions": {"vdm_jax": "0.1.0"}}))
    with pytest.raises(UserError, match=r"checkpoints/9 of a run of vdm_jax 0\.1\.0 belongs to another model"):
        Restored(run, next(iter(WRONG.values()))[0](LIKE))


def test_no_checkpoint_is_none(tmp_path: Any) -> None:
    found = Restored(epath.Path(tmp_path))
    assert (found.state, found.step, found.said, found.position.index) == (None, None, [], -1)


def write_old(directory: epath.Path, step: int) -> None:
    """As it was before there were checksums: Grain's file for every process."""
    iterator = iter(grain.MapDataset.range(100).to_iter_dataset())
    for _ in range(step):
        next(iterator)
    with ocp.CheckpointManager(checkpoints.folder(directory)) as saver:
        state = tiny(step)._replace(extra={})._asdict()
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), data=grain.checkpoint.CheckpointSave(iterator))
        saver.save(step, args=items, force=True)


@pytest.fixture
def old(tmp_path: Any) -> Iterator[epath.Path]:
    directory = epath.Path(tmp_path) / "old"
    for step in (4, 8):
        write_old(directory, step)
    yield directory


def test_checkpoints_without_checksums_restore_with_a_note(old: epath.Path) -> None:
    found = Restored(old, LIKE._replace(extra={}))
    assert found.step == 8 and found.position.index == 8
    assert found.said == ["checkpoint 8 has no checksums: its integrity could not be verified"]
    assert_same(found.state, tiny(8)._replace(extra={}))
    largest(old / "checkpoints" / "8").unlink()
    found = Restored(old, LIKE._replace(extra={}))
    assert found.step == 4 and len(found.said) == 2
    with pytest.raises(UserError, match=r"belongs to another model or version .*extra/half is missing from it and 2 "):
        Restored(old, LIKE)


def test_the_data_position_does_not_depend_on_the_processes(old: epath.Path) -> None:
    data = old / "checkpoints" / "8" / "data"
    for index in range(4):
        (data / f"process_{index}-of-4.json").write_text((data / "process_0-of-1.json").read_text())
    (data / "process_0-of-1.json").unlink()
    assert Restored(old, LIKE._replace(extra={})).position.index == 8


def test_a_known_step_is_restored_or_its_damage_told(run: epath.Path) -> None:
    position = Position()
    with checkpoints.manager(run, 3) as saver:
        assert_same(checkpoints.restore(saver, 6, LIKE, position), tiny(6))
        assert position.index == 6
        largest(run / "checkpoints" / "6").unlink()
        before = contents(run)
        with pytest.raises(UserError, match=r"checkpoints/6 is damaged .*; --mode=train tries step 3"):
            checkpoints.restore(saver, 6, LIKE, position)
    assert contents(run) == before and position.index == 6


def test_weights_are_checked_too(run: epath.Path) -> None:
    shapes = LIKE.ema
    ema, step = checkpoints.restore_weights(run, "ema", shapes)
    assert step == 9
    np.testing.assert_array_equal(ema["dense"]["kernel"], tiny(9).ema["dense"]["kernel"])
    with pytest.raises(UserError, match=r"another model or version \(params/dense/bias is not part of this model"):
        checkpoints.restore_weights(run, "params", {"dense": {"kernel": shapes["dense"]["kernel"]}})
    told = 0
    places = [
        path for path in files(run / "checkpoints" / "9") if path.stat().st_size > 2000 and path.parent.name == "d"
    ]
    for path in places:
        for eighth in range(1, 8):  # somewhere among the arrays, not always in ema
            flip(path, eighth * path.stat().st_size)
            try:
                found, _ = checkpoints.restore_weights(run, "ema", shapes)
                np.testing.assert_array_equal(found["dense"]["kernel"], ema["dense"]["kernel"])
            except UserError as error:
                assert "checkpoints/9 is damaged" in str(error) and "tries step 6" in str(error)
                told += 1
            flip(path, eighth * path.stat().st_size)
    assert 2 <= told < 7 * len(places)


def test_newest_and_every_so_many_are_kept(tmp_path: Any) -> None:
    directory = epath.Path(tmp_path)
    fill(directory, 1, 2, 3, 4, 5, 6, 7, keep=2, keep_every=3)
    assert checkpoints.steps(directory) == [3, 6, 7]
    fill(directory, 8, keep=1, keep_every=4)
    assert checkpoints.steps(directory) == [8]


def test_a_step_that_is_there_is_left_as_it_is(run: epath.Path) -> None:
    before = contents(run)
    fill(run, 9)
    assert contents(run) == before


def test_the_state_may_be_donated_once_it_is_being_saved(tmp_path: Any) -> None:
    clear = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0)
    with checkpoints.manager(epath.Path(tmp_path), 3) as saver:
        state = tiny(5)
        checkpoints.save(saver, state, Position(5))
        clear((state.params, state.ema))
        checkpoints.finish(saver)
        assert_same(checkpoints.restore(saver, 5, LIKE, Position()), tiny(5))


def test_steps_set_aside_are_out_of_sight(run: epath.Path) -> None:
    with checkpoints.manager(run, 3) as saver:
        assert checkpoints.set_aside(saver, [9, 6], "spikes") == [run / "spikes" / "9", run / "spikes" / "6"]
        assert saver.latest_step() == 3
        assert checkpoints.set_aside(saver, []) == []
    assert checkpoints.steps(run) == [3]
