"""Checkpoints that are broken, missing or somebody else's; directories that cannot be used."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from tests.training.runs import points
from tests.training.states import contents
from vdm_jax import methods, weights
from vdm_jax.errors import UserError
from vdm_jax.runtime import checkpoints, devices, workdir
from vdm_jax.training.loop import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    """A run with checkpoints at 6, 9 and 12."""
    directory = epath.Path(tmp_path_factory.mktemp("finished"))
    train(points(), directory, finish=False)
    return directory


@pytest.fixture
def copy(finished: epath.Path, tmp_path: Any) -> epath.Path:
    return epath.Path(shutil.copytree(finished, tmp_path / "run"))


def cut_largest(step: epath.Path) -> None:
    """Truncate the largest file under a checkpoint to half."""
    files = [os.path.join(at, name) for at, _, names in os.walk(step) for name in names]
    largest = max(files, key=os.path.getsize)
    os.truncate(largest, os.path.getsize(largest) // 2)


def test_a_run_goes_on_from_the_checkpoint_before_a_broken_one(
    finished: epath.Path, copy: epath.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = train(points(), finished, finish=False)  # restores, and has nothing to do
    cut_largest(copy / "checkpoints" / "12")
    capsys.readouterr()
    state = train(points(), copy, finish=False)
    said = capsys.readouterr().out
    assert "checkpoint 12 is damaged (its state cannot be read" in said and "resuming at step 9" in said
    assert checkpoints.steps(copy) == [6, 9, 12]
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(straight), strict=True):
        np.testing.assert_array_equal(a, b)


def test_broken_checkpoints_are_a_sentence_and_nothing_is_changed(copy: epath.Path) -> None:
    for step in (6, 9, 12):
        cut_largest(copy / "checkpoints" / str(step))
    before = contents(copy)
    with pytest.raises(UserError, match=r"all checkpoints in .* are damaged \(12: .*; 9: .*; 6: ") as raised:
        train(points(), copy, finish=False)
    assert "\n" not in str(raised.value)
    assert contents(copy) == before


def test_weights_of_a_broken_checkpoint_are_a_sentence(copy: epath.Path) -> None:
    config = points()
    cut_largest(copy / "checkpoints" / "12" / "state")
    with pytest.raises(UserError, match=r"checkpoints/12 is damaged .*--mode=train tries step 9"):
        weights.load(str(copy), config, methods.build(config))


def test_weights_by_workdir_folder_and_step(finished: epath.Path) -> None:
    config = points()
    method = methods.build(config)
    newest, step = weights.load(str(finished), config, method)
    assert step == 12
    for place in (finished / "checkpoints", finished / "checkpoints" / "12"):
        for a, b in zip(*map(jax.tree.leaves, (weights.load(str(place), config, method)[0], newest)), strict=True):
            np.testing.assert_array_equal(a, b)
    older, step = weights.load(str(finished / "checkpoints" / "9"), config, method)
    assert step == 9
    config.evaluation.weights = "raw"
    raw, _ = weights.load(str(finished), config, method)
    for other in (older, raw):
        assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (other, newest)), strict=True))
    state = train(points(), finished, finish=False)  # restores, and has nothing to do
    for a, b in zip(*map(jax.tree.leaves, ((newest, raw), (state.ema, state.params))), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_working_directory_may_be_called_checkpoints(finished: epath.Path, tmp_path: Any) -> None:
    place = tmp_path / "checkpoints"
    shutil.copytree(finished, place)
    for path, step in ((place, 12), (place / "checkpoints", 12), (place / "checkpoints" / "9", 9)):
        assert weights.load(str(path), points(), methods.build(points()))[1] == step


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("checkpoints/10", "contains no checkpoint 10; there are 6, 9, 12"),
        ("nowhere", "no weights at .*nowhere; give a working directory"),
    ],
)
def test_missing_weights(where: str, sentence: str, finished: epath.Path) -> None:
    config = points()
    with pytest.raises(UserError, match=sentence):
        weights.load(str(finished / where), config, methods.build(config))


def test_weights_of_another_model(finished: epath.Path) -> None:
    config = points()
    config.model.width, config.optimizer.learning_rate = 16, 0.5
    with pytest.raises(UserError, match=r"another model \(model.width: 8 → 16\)"):
        weights.load(str(finished), config, methods.build(config))
    config.model.width, config.optimizer.learning_rate = 8, 0.5  # how they were trained does not matter
    assert weights.load(str(finished), config, methods.build(config))[1] == 12


def test_workdir_without_checkpoint_has_no_weights(tmp_path: Any) -> None:
    config = points()
    workdir.claim(epath.Path(tmp_path), config)
    with pytest.raises(UserError, match="contains no checkpoint; train first"):
        weights.load(str(tmp_path), config, methods.build(config))


def test_other_config_names_the_fields_that_differ(copy: epath.Path) -> None:
    config = points()
    config.training.num_steps, config.data.threads = 24, 1  # may change
    config.model.dropout, config.training.seed = 0.2, 3
    before = contents(copy)
    with pytest.raises(UserError, match=r"model.dropout: 0.1 → 0.2; training.seed: 1 → 3\); use a new --workdir"):
        train(config, copy)
    assert contents(copy) == before


def test_fields_that_may_change_on_resume_do(copy: epath.Path) -> None:
    config = points()
    config.training.num_steps, config.training.keep = 13, 1
    assert int(train(config, copy, finish=False).step) == 13
    assert checkpoints.steps(copy) == [13]
    assert workdir.saved_config(copy)["training"]["num_steps"] == 13  # type: ignore[index]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"config": 3}', '{"other": {}}', "\x00\xff"])
def test_garbage_config_is_a_sentence(text: str, copy: epath.Path) -> None:
    (copy / "config.json").write_bytes(text.encode("latin-1"))
    before = contents(copy)
    with pytest.raises(UserError, match=r"config.json is not a config of vdm_jax"):
        train(points(), copy)
    assert contents(copy) == before


def test_checkpoints_without_config_are_nobodys(copy: epath.Path) -> None:
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json; restore it"):
        train(points(), copy)


def test_places_that_cannot_be_a_workdir(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="file is a file, so"):
            workdir.check_same(epath.Path(place), points())
    monkeypatch.setattr(workdir.os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"{tmp_path} cannot be written"):
        workdir.check_same(epath.Path(tmp_path) / "new", points())
    assert not (tmp_path / "new").exists()


def test_claim_records_the_config_the_command_and_the_versions(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workdir.sys, "argv", ["main.py", "--config.data.shape=(8, 8)"])
    workdir.claim(epath.Path(tmp_path) / "a" / "b", points())
    record = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    assert record["command"] == "main.py '--config.data.shape=(8, 8)'"
    assert record["config"]["model"]["width"] == 8
    assert record["versions"]["jax"] == jax.__version__
    assert not (tmp_path / "a" / "b" / "config.json.tmp").exists()


@pytest.mark.parametrize(("batch", "most", "divisor"), [(64, 2, 2), (63, 2, 1), (12, 8, 6), (1, 8, 1), (7, 0, 1)])
def test_largest_divisor(batch: int, most: int, divisor: int) -> None:
    assert devices.largest_divisor(batch, most) == divisor


def test_batch_must_divide_by_the_devices() -> None:
    with pytest.raises(UserError, match=r"batch_size=7 must be divisible by the 2 devices; try 6"):
        devices.make_mesh(7)


def test_a_relative_workdir_trains_and_resumes(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = points()
    config.training.num_steps = 3
    train(config, epath.Path("runs/points"), finish=False)
    config.training.num_steps = 6
    state = train(config, epath.Path("runs/points"), finish=False)
    assert int(state.step) == 6
    assert checkpoints.steps(epath.Path("runs/points")) == [3, 6]


def test_a_bucket_is_not_made_a_local_path() -> None:
    assert os.fspath(checkpoints.folder(epath.Path("gs://bucket/run"))) == "gs://bucket/run/checkpoints"
