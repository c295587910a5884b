"""Stopped and started again: the same run, bit for bit; NaN stops it and leaves the last good state."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from tests.training.runs import mesh_of, points
from vdm_jax.errors import UserError
from vdm_jax.training import checkpoints, devices, loop
from vdm_jax.training.loop import train
from vdm_jax.training.metrics import Progress
from vdm_jax.training.state import TrainState


def die_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The next run is interrupted when it has made `step` steps."""

    class Dying(Progress):
        def advance(self) -> None:
            super().advance()
            self.made = getattr(self, "made", 0) + 1
            if self.made == step:
                raise KeyboardInterrupt

    monkeypatch.setattr(loop, "Progress", Dying)


def interrupted(config: ConfigDict, directory: epath.Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    with monkeypatch.context() as patch:
        die_after(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train(config, directory, finish=False)


def lines(directory: epath.Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    path = directory / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def assert_same_bits(left: TrainState, right: TrainState) -> None:
    pairs = zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True)
    for (path, a), b in pairs:
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainState, epath.Path]:
    """Twelve steps without a stop, evaluated after 4 and 8."""
    directory = epath.Path(tmp_path_factory.mktemp("straight"))
    config = points()
    config.training.eval_every = 4
    return train(config, directory, finish=False), directory


@pytest.mark.parametrize("step", [8, 11])
def test_resumed_run_equals_straight_run(
    step: int, straight: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Checkpoints are at 3, 6, 9, 12 and log lines at 5, 10: both stops are between them, and the
    # evaluation of step 8 is either lost and made again, or kept.
    config, directory = points(), epath.Path(tmp_path)
    config.training.eval_every = 4
    interrupted(config, directory, monkeypatch, step)
    assert checkpoints.steps(directory)[-1] == step // 3 * 3
    state = train(config, directory, finish=False)
    assert_same_bits(state, straight[0])
    assert lines(directory) == lines(straight[1])
    assert [row["step"] for row in lines(directory)] == [4, 5, 8, 10]


def test_logged_values_are_means_since_the_line_before(straight: Any, tmp_path: Any) -> None:
    config, directory = points(), epath.Path(tmp_path)
    config.training.log_every = 1
    train(config, directory, finish=False)
    single = lines(directory)
    for row in (row for row in lines(straight[1]) if row["split"] == "train"):
        window = single[row["step"] - 5 : row["step"]]
        for name in ("loss", "grad_norm", "diffusion", "gamma_0"):
            np.testing.assert_allclose(row[name], np.mean([one[name] for one in window]), rtol=1e-5)


def test_run_killed_while_it_evaluates_does_so_again(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = points()
    config.training.eval_every = config.training.checkpoint_every
    train(config, epath.Path(tmp_path / "straight"), finish=False)

    def die(run: loop.Run, state: TrainState, number: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        real = loop.evaluate
        patch.setattr(loop, "evaluate", lambda run, state, n: (die if n == 6 else real)(run, state, n))
        with pytest.raises(KeyboardInterrupt):
            train(config, epath.Path(tmp_path / "broken"), finish=False)
    train(config, epath.Path(tmp_path / "broken"), finish=False)
    assert lines(epath.Path(tmp_path / "broken")) == lines(epath.Path(tmp_path / "straight"))
    assert [row["step"] for row in lines(epath.Path(tmp_path / "broken"))] == [3, 5, 6, 9, 10]


def test_state_continues_on_another_number_of_devices(
    straight: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, directory = points(), epath.Path(tmp_path)
    interrupted(config, directory, monkeypatch, 8)
    monkeypatch.setattr(devices, "data_mesh", lambda batch: mesh_of(1))
    state = train(config, directory, finish=False)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(straight[0].params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_only_the_newest_checkpoints_are_kept(straight: Any, tmp_path: Any) -> None:
    assert checkpoints.steps(straight[1]) == [6, 9, 12]
    config, directory = points(), epath.Path(tmp_path)
    config.training.keep = 1
    train(config, directory, finish=False)
    assert checkpoints.steps(directory) == [12]


def test_finished_run_is_evaluated_again_and_nothing_else(tmp_path: Any) -> None:
    config, directory = points(), epath.Path(tmp_path)
    first = train(config, directory)
    before = lines(directory)
    record = (directory / "config.json").read_text()
    result = json.loads((directory / "eval.json").read_text())
    assert before[-1]["split"] == "test" and before[-1]["bits_per_dim"] == result["bits_per_dim"]
    again = train(config, directory)
    assert_same_bits(first, again)
    assert lines(directory) == before
    assert json.loads((directory / "eval.json").read_text()) == result
    assert (directory / "config.json").read_text() == record


def poison(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """NaN in the batch of that step."""
    real, made = devices.put_batch, iter(range(1, 100))

    def put(mesh: Any, batch: dict[str, np.ndarray]) -> Any:
        return real(mesh, {k: v * np.float32(np.nan) if k == "image" else v for k, v in batch.items()})

    monkeypatch.setattr(devices, "put_batch", lambda mesh, b: put(mesh, b) if next(made) == step else real(mesh, b))


@pytest.mark.parametrize(("step", "kept"), [(5, [3]), (7, [3, 6]), (2, []), (12, [6, 9])])
def test_nan_stops_at_its_step_and_keeps_the_last_good_checkpoint(
    step: int, kept: list[int], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, directory = points(), epath.Path(tmp_path)
    config.training.keep = 2
    poison(monkeypatch, step)
    where = f"the checkpoint of step {kept[-1]} is kept" if kept else "no checkpoint was made yet"
    with pytest.raises(UserError, match=rf"at step {step}; {where}"):
        train(config, directory, finish=False)
    assert checkpoints.steps(directory) == kept
    assert [row["step"] for row in lines(directory)] == [logged for logged in (5, 10) if logged < step]


def test_initial_weights_are_trained_on_and_left_alone(straight: Any, tmp_path: Any) -> None:
    config = points()
    config.training.num_steps = 1
    given = jax.device_get(straight[0].params)
    initial = jax.device_put(given, devices.replicated(mesh_of(2)))
    state = train(config, epath.Path(tmp_path), initial, finish=False)
    # The first step of the warm-up has learning rate 0.
    for a, b, c in zip(*map(jax.tree.leaves, (state.params, given, initial)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(c, b)
