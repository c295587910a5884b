"""Two phases with rates and averages of their own, and two variants of a step, through the whole trainer."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from tests.training.runs import functions, gan, mesh_of
from tests.training.test_resume import assert_same_bits, interrupted, lines
from vdm_jax import conditioning, data, methods
from vdm_jax.evaluation import report
from vdm_jax.runtime import checkpoints, devices
from vdm_jax.training.loop import alike, train
from vdm_jax.training.state import TrainState


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainState, epath.Path]:
    directory = epath.Path(tmp_path_factory.mktemp("straight"))
    return train(gan(), directory, finish=False), directory


@pytest.mark.slow
@pytest.mark.parametrize("step", [7, pytest.param(10, marks=pytest.mark.slow)])
def test_resumed_run_equals_straight_run(
    step: int, straight: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints are at 4, 8, 12 and R1 in the steps after 0, 3, 6, 9."""
    directory = epath.Path(tmp_path)
    interrupted(gan(), directory, monkeypatch, step)
    assert checkpoints.steps(directory)[-1] == step // 4 * 4
    assert_same_bits(train(gan(), directory, finish=False), straight[0])
    assert lines(directory) == lines(straight[1])


@pytest.mark.slow
def test_the_penalty_is_that_of_every_third_step(straight: Any) -> None:
    """R1 in two of the steps 1 … 5 (1 and 4) and in two of 6 … 10 (7 and 10); it is never 0 in one of them."""
    rows = lines(straight[1])
    assert [row["step"] for row in rows] == [5, 10] and all(row["discriminator/penalty"] > 0 for row in rows)
    config = gan()
    method = methods.build(config)
    assert [method.variant(number) for number in range(7)] == [True, False, False, True, False, False, True]
    assert [alike(method.variant, number, 5) for number in range(4)] == [1, 2, 1, 1]
    config.training.r1_every = 0
    assert not any(methods.build(config).variant(number) for number in range(7))


def one_step(variant: bool) -> tuple[TrainState, TrainState]:
    """(state before, state after) the first step."""
    config = gan()
    program = functions(config, methods.build(config), mesh_of(2))
    records = next(data.train_iterator(data.load("gaussians25", "train"), seed=1, batch_size=16, augment=()))
    batch = conditioning.batch_of((), records)
    first = jax.device_get(program.init())
    state = devices.put_state(first, program.shardings)
    state, _ = program.variants(variant)(state, (program.put(batch),), None)
    return first, jax.device_get(state)


@pytest.mark.slow
def test_each_phase_has_its_rate_and_only_the_generator_an_average() -> None:
    """Adam's first step is its rate for every weight with a gradient; the average starts at (1 + n)/(10 + n)."""
    first, after = one_step(False)
    for name, rate in (("generator", 2e-3), ("discriminator", 1e-3)):
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first.params[name], after.params[name])
        np.testing.assert_allclose(max(jax.tree.leaves(moved)), rate, rtol=1e-3)
    for name, share in (("generator", 0.9), ("discriminator", 1.0)):
        expected = jax.tree.map(lambda a, b, s=share: a + s * (b - a), first.params[name], after.params[name])
        for a, b in zip(jax.tree.leaves(after.ema[name]), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_variants_differ_by_the_penalty_on_the_discriminator_s_turn() -> None:
    (_, plain), (_, with_r1) = one_step(False), one_step(True)
    assert float(plain.window["discriminator/penalty"]) == 0 < float(with_r1.window["discriminator/penalty"])
    np.testing.assert_array_equal(plain.window["discriminator/real"], with_r1.window["discriminator/real"])
    # the loss with R1 is no measure of a spike of the loss without
    assert float(plain.typical) > 0 == float(with_r1.typical)
    difference = with_r1.window["discriminator/loss"] - plain.window["discriminator/loss"]
    np.testing.assert_allclose(difference, with_r1.window["discriminator/penalty"], rtol=1e-3)
    # Adam's m after one step is (1 − b₁) times the gradient: the discriminator's is another
    m = lambda state: jax.tree.leaves(state.opt_state["discriminator"])
    assert any(np.abs(a - b).max() > 0 for a, b in zip(m(plain), m(with_r1), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"parallelism": "pmap"}, {"steps_per_call": 4}, {"accumulate": 2}])
def test_a_run_may_go_on_in_another_way(
    change: dict[str, Any], straight: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, directory = gan(), epath.Path(tmp_path)
    interrupted(config, directory, monkeypatch, 7)
    config.training.update(change)
    state = train(config, directory, finish=False)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(straight[0].params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_weights_of_a_generator_alone_begin_a_run_with_a_new_discriminator(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a run that evaluates nothing needs no split to evaluate."""
    monkeypatch.setattr(report, "check_data", None)
    config = gan()
    config.training.num_steps = 1
    fresh = jax.device_get(functions(config, methods.build(config), mesh_of(2)).init()).params
    other = {"generator": jax.tree.map(lambda a: a + 1, fresh["generator"])}
    state = train(config, epath.Path(tmp_path), other, finish=False)
    for name, begin in (("generator", other["generator"]), ("discriminator", fresh["discriminator"])):
        for a, b in zip(jax.tree.leaves(state.params[name]), jax.tree.leaves(begin), strict=True):
            np.testing.assert_allclose(a, b, atol=2.1e-3)  # one step of Adam
