"""Stopped and started again: the same run, bit for bit; NaN stops it and leaves the last good state."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from tests.training.runs import BATCH, mesh_of, points
from vdm_jax import data
from vdm_jax.errors import UserError
from vdm_jax.plan import programs
from vdm_jax.runtime import checkpoints, devices
from vdm_jax.training import loop, periodic
from vdm_jax.training.loop import train
from vdm_jax.training.metrics import TIMED, Progress
from vdm_jax.training.state import TrainState


def die_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The next run is interrupted when it has made `step` steps."""

    class Dying(Progress):
        def advance(self, steps: int) -> None:
            super().advance(steps)
            self.made = getattr(self, "made", 0) + steps
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
    return [{k: v for k, v in row.items() if k not in TIMED} for row in rows]


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


@pytest.mark.slow
def test_logged_values_are_means_since_the_line_before(straight: Any, tmp_path: Any) -> None:
    config, directory = points(), epath.Path(tmp_path)
    config.training.log_every = 1
    train(config, directory, finish=False)
    single = lines(directory)
    for row in (row for row in lines(straight[1]) if row["split"] == "train"):
        window = single[row["step"] - 5 : row["step"]]
        for name in ("loss", "grad_norm", "diffusion", "gamma_0"):
            np.testing.assert_allclose(row[name], np.mean([one[name] for one in window]), rtol=1e-5)


@pytest.mark.slow
def test_run_killed_while_it_evaluates_does_so_again(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = points()
    config.training.eval_every = config.training.checkpoint_every
    train(config, epath.Path(tmp_path / "straight"), finish=False)

    def die(run: Any, weights: Any, number: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        real = periodic.evaluate
        patch.setattr(periodic, "evaluate", lambda run, weights, n: (die if n == 6 else real)(run, weights, n))
        with pytest.raises(KeyboardInterrupt):
            train(config, epath.Path(tmp_path / "broken"), finish=False)
    train(config, epath.Path(tmp_path / "broken"), finish=False)
    assert lines(epath.Path(tmp_path / "broken")) == lines(epath.Path(tmp_path / "straight"))
    assert [row["step"] for row in lines(epath.Path(tmp_path / "broken"))] == [3, 5, 6, 9, 10]


@pytest.mark.slow
def test_state_continues_on_another_number_of_devices(
    straight: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, directory = points(), epath.Path(tmp_path)
    interrupted(config, directory, monkeypatch, 8)
    single = mesh_of(1)
    monkeypatch.setattr(devices, "make_mesh", lambda batch, fsdp: single)
    state = train(config, directory, finish=False)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(straight[0].params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_only_the_newest_checkpoints_are_kept(straight: Any, tmp_path: Any) -> None:
    assert checkpoints.steps(straight[1]) == [8, 9, 12]  # an evaluation begins with a checkpoint
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
        return real(mesh, {k: v * np.float32(np.nan) if k == "x" else v for k, v in batch.items()})

    monkeypatch.setattr(devices, "put_batch", lambda mesh, b: put(mesh, b) if next(made) == step else real(mesh, b))


@pytest.mark.parametrize(
    ("step", "kept"),
    [(7, [3, 6]), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((5, [3]), (2, []), (12, [6, 9])))],
)
def test_nan_stops_at_its_step_and_keeps_the_last_good_checkpoint(
    step: int, kept: list[int], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, directory = points(), epath.Path(tmp_path)
    config.training.keep, config.training.bad_steps = 2, 1
    poison(monkeypatch, step)
    where = f"the checkpoint of step {kept[-1]} is kept" if kept else "no checkpoint was saved yet"
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


def test_a_bad_step_is_skipped_counted_and_leaves_no_trace(straight: Any, tmp_path: Any, monkeypatch: Any) -> None:
    config, directory = points(), epath.Path(tmp_path)
    config.training.num_steps, config.training.checkpoint_every = 5, 1
    config.training.keep = 9
    poison(monkeypatch, 5)
    state = train(config, directory, finish=False)
    assert [(row["step"], row["skipped_steps"]) for row in lines(directory)] == [(5, 1.0)]
    # The mean is over the four steps that were made, and the fifth changed neither weights nor optimizer.
    before = _state_at(directory, 4, state)
    assert_same_bits(state._replace(step=0, window=0, bad=0), before._replace(step=0, window=0, bad=0))
    assert int(state.bad) == 1 and int(before.bad) == 0
    assert lines(directory)[0]["loss"] == pytest.approx(float(before.window["loss"]) / 4, rel=1e-6)


def _state_at(directory: epath.Path, step: int, like: TrainState) -> TrainState:
    iterator = data.train_iterator(data.load("swirl", "train"), seed=1, batch_size=BATCH)
    with contextlib.closing(checkpoints.manager(directory, 9)) as saver:
        return checkpoints.restore(saver, step, like, iterator)


@pytest.mark.slow
def test_rollback_goes_on_from_the_checkpoint_with_other_data(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, directory = points(), epath.Path(tmp_path)
    config.training.bad_steps, config.training.on_bad, config.training.keep = 2, "rollback", 9
    real, made, seen = devices.put_batch, iter(range(1, 100)), []

    def put(mesh: Any, batch: dict[str, np.ndarray]) -> Any:
        number = next(made)
        seen.append(batch["x"].copy())
        return real(mesh, {**batch, "x": batch["x"] * np.float32(np.nan)} if number in (7, 8) else batch)

    monkeypatch.setattr(devices, "put_batch", put)
    state = train(config, directory, finish=False)
    # Batches 7 and 8 are bad, which is known when batch 9 is under way; 7 … 12 are made again with 10 … 15.
    assert int(state.step) == 12 and int(state.bad) == 0 and len(seen) == 15
    assert [row["step"] for row in lines(directory)] == [5, 10]
    assert lines(directory)[-1]["skipped_steps"] == 0
    fresh = data.train_iterator(data.load("swirl", "train"), seed=1, batch_size=BATCH)
    for image in seen:
        np.testing.assert_array_equal(image, next(fresh)["image"])  # none twice, none left out
    assert checkpoints.steps(directory) == [3, 6, 9, 12]


def test_rollback_gives_up_in_the_end(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, directory = points(), epath.Path(tmp_path)
    config.training.bad_steps, config.training.on_bad = 1, "rollback"
    real, made = devices.put_batch, iter(range(1, 100))

    def put(mesh: Any, batch: dict[str, np.ndarray]) -> Any:
        bad = next(made) >= 5
        return real(mesh, {k: v * np.float32(np.nan) if bad and k == "x" else v for k, v in batch.items()})

    monkeypatch.setattr(devices, "put_batch", put)
    with pytest.raises(UserError, match=r"at step 4; the checkpoint of step 3 is kept, after 3 rollbacks to it"):
        train(config, directory, finish=False)
    assert checkpoints.steps(directory) == [3]


@pytest.mark.slow
def test_a_spike_is_not_applied_and_stops(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, directory = points(), epath.Path(tmp_path)
    config.training.num_steps, config.training.checkpoint_every, config.training.spike = 80, 20, 20.0
    real, made = devices.put_batch, iter(range(1, 100))

    def put(mesh: Any, batch: dict[str, np.ndarray]) -> Any:
        far = np.float32(1e3 if next(made) == 65 else 1)
        return real(mesh, {k: v * far if k == "x" else v for k, v in batch.items()})

    monkeypatch.setattr(devices, "put_batch", put)
    with pytest.raises(
        UserError, match=r"spike=20 times its running mean at step 65; the checkpoint of step 60 is kept"
    ):
        train(config, directory, finish=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"parallelism": "pmap"},
        {"steps_per_call": 4},
        {"fsdp": 2},
        {"accumulate": 2},
    ],
)
def test_a_run_may_go_on_in_another_way(
    change: dict[str, Any], straight: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, directory = points(), epath.Path(tmp_path)
    config.training.eval_every = 4
    interrupted(config, directory, monkeypatch, 8)
    config.training.update(change)
    state = train(config, directory, finish=False)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(straight[0].params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for left, right in zip(lines(directory), lines(straight[1]), strict=True):
        assert left.keys() == right.keys() and left["step"] == right["step"]
        for name in ("loss", "grad_norm", "bits_per_dim"):
            if name in right:
                assert left[name] == pytest.approx(right[name], rel=1e-4)


@pytest.mark.slow
def test_a_missing_evaluation_and_grid_are_made_up_for(tmp_path: Any) -> None:
    config, directory = points(), epath.Path(tmp_path)
    config.training.eval_every = config.training.sample_every = 6
    train(config, epath.Path(tmp_path / "straight"), finish=False)
    short = points()
    short.training.num_steps = 6
    train(short, directory, finish=False)
    assert not (directory / "samples").exists()
    train(config, directory, finish=False)
    assert lines(directory) == lines(epath.Path(tmp_path / "straight"))
    assert [row["step"] for row in lines(directory) if row["split"] == "test"] == [6]
    assert (directory / "samples" / "6.png").exists()


@pytest.mark.slow
def test_a_trace_of_a_few_steps(tmp_path: Any) -> None:
    config, directory = points(), epath.Path(tmp_path)
    config.training.num_steps, config.training.profile_steps = 6, (3, 4)
    train(config, directory, finish=False)
    traces = list((tmp_path / "plugins" / "profile").glob("*/*.xplane.pb"))
    assert len(traces) == 1 and traces[0].stat().st_size > 1000


@pytest.mark.slow
def test_the_step_is_compiled_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    real = loop.functions
    monkeypatch.setattr(loop, "functions", lambda *a: made.append(real(*a)) or made[-1])
    train(points(), epath.Path(tmp_path), finish=False)
    before = made[0].step._cache_size()
    train(points(), epath.Path(tmp_path / "again"), finish=False)
    assert made[1].step is made[0].step and made[0].step._cache_size() == before


@pytest.mark.slow
def test_the_share_of_the_chip_that_the_model_uses(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.chips, "peak_flops", lambda kind, dtype: 1e9)
    config, directory = points(), epath.Path(tmp_path)
    flops_of = lambda config, devices: programs.train(config, devices).model.total
    train(config, directory, finish=False, flops_of=flops_of)
    row = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()][-1]
    flops = flops_of(config, jax.devices())
    assert row["model_flops_utilization"] == pytest.approx(flops / row["seconds_per_step"] / 2e9)
    # Forwards and backwards through 361 weights, most of them in dense layers, for 16 points.
    assert 3 * 2 * 16 * 200 < flops < 3 * 2 * 16 * 361


def test_a_rollback_survives_a_kill(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, directory = points(), epath.Path(tmp_path)
    config.training.bad_steps, config.training.on_bad, config.training.checkpoint_every = 1, "rollback", 6
    real, made, seen = devices.put_batch, iter(range(1, 100)), []

    def put(mesh: Any, batch: dict[str, np.ndarray]) -> Any:
        seen.append(batch["x"].copy())
        bad = next(made) == 8
        return real(mesh, {k: v * np.float32(np.nan) if bad and k == "x" else v for k, v in batch.items()})

    monkeypatch.setattr(devices, "put_batch", put)
    interrupted(config, directory, monkeypatch, 11)  # two steps after the return from 9 to 6
    assert checkpoints.steps(directory) == [6] and json.loads((directory / "rollback.json").read_text()) == {
        "step": 6,
        "position": {"next_index": 9},
        "times": 1,
    }
    state = train(config, directory, finish=False)
    assert int(state.step) == 12 and [row["step"] for row in lines(directory)] == [5, 10]
    # Batches 0 … 10, and after the kill 9 … 14 again: those before 9 were left behind with the rollback.
    fresh = data.train_iterator(data.load("swirl", "train"), seed=1, batch_size=BATCH)
    all_of_them = [next(fresh)["image"] for _ in range(15)]
    for image, number in zip(seen, [*range(11), *range(9, 15)], strict=True):
        np.testing.assert_array_equal(image, all_of_them[number])


@pytest.mark.slow
def test_one_infinite_loss_is_no_spike(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, directory = points(), epath.Path(tmp_path)
    config.training.num_steps, config.training.checkpoint_every, config.training.spike = 60, 60, 20.0
    real, made = devices.put_batch, iter(range(1, 100))

    def put(mesh: Any, batch: dict[str, np.ndarray]) -> Any:
        far = np.float32(np.inf if next(made) == 55 else 1)
        return real(mesh, {k: v * far if k == "x" else v for k, v in batch.items()})

    monkeypatch.setattr(devices, "put_batch", put)
    assert int(train(config, directory, finish=False).step) == 60
    assert [row["skipped_steps"] for row in lines(directory)][-2:] == [1, 0]


@pytest.mark.slow
def test_evaluations_on_training_images_have_lines_of_their_own(tmp_path: Any) -> None:
    config, directory = points(), epath.Path(tmp_path)
    config.evaluation.split = "train"
    train(config, directory)
    before = lines(directory)
    assert [(row["step"], row["split"]) for row in before] == [(5, "train"), (10, "train"), (12, "train_eval")]
    train(config, directory)
    assert lines(directory) == before
