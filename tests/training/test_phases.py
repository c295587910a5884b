"""A method of two phases with state of its own, through the whole trainer: nothing in it is made for one phase."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax import Array

from tests.training.runs import mesh_of, points
from tests.training.test_resume import lines
from vdm_jax import methods
from vdm_jax.core.method import Batch, Context, Method, Phase, Terms
from vdm_jax.errors import UserError
from vdm_jax.training import loop, program
from vdm_jax.training.loop import train


def two_phases() -> Method:
    """`near` follows the mean of the data; `far` then follows near + 1, which its phase must not move."""

    def near(params: Any, extra: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        distance = jnp.sum(jnp.square(params["near"]["kernel"][0][None] - batch["x"]), -1)
        return distance, {"place": context.index.astype(jnp.float32)}

    def far(params: Any, extra: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        distance = jnp.sum(jnp.square(params["far"]["kernel"][0] - params["near"]["kernel"][0] - 1))
        return jnp.broadcast_to(distance, context.index.shape), {"place": context.index.astype(jnp.float32)}

    def init(key: Array) -> Any:
        return {name: {"kernel": jnp.zeros((1, 2))} for name in ("near", "far")}

    def nothing(*_: Any) -> Any:
        raise AssertionError("not of this test")

    return Method(
        init=init,
        phases=(Phase("near", ("near",), near), Phase("far", ("far",), far)),
        sample=nothing,
        denoise=nothing,
        schedule=nothing,
        init_extra=lambda params: jnp.zeros(16),
        update_extra=lambda extra, aux: extra + aux["place"],  # the global batch, in its order
    )


@pytest.mark.slow
@pytest.mark.parametrize("parallelism", ["jit", "pmap"])
def test_two_phases_and_their_state(parallelism: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.methods, "build", lambda config: two_phases())
    monkeypatch.setattr(loop, "functions", program.functions)
    config = points()
    config.training.parallelism, config.training.num_steps, config.training.log_every = parallelism, 300, 100
    config.training.checkpoint_every, config.training.accumulate, config.training.spike = 300, 2, 1e3
    config.optimizer.learning_rate, config.optimizer.weight_decay, config.optimizer.warmup_steps = 2e-2, 0.0, 0
    state = train(config, epath.Path(tmp_path), finish=False)
    near, far = state.params["near"]["kernel"][0], state.params["far"]["kernel"][0]
    np.testing.assert_allclose(far, near + 1, atol=0.1)
    assert np.abs(near).max() < 0.3  # the swirl is centered
    np.testing.assert_array_equal(state.extra, 2 * 300 * np.arange(16))
    rows = lines(epath.Path(tmp_path))
    assert [row["step"] for row in rows] == [100, 200, 300]
    for row in rows:
        assert row["near/place"] == row["far/place"] == 7.5 and row["replaced_records"] == row["skipped_steps"] == 0
    assert rows[0]["far/loss"] > 10 * rows[-1]["far/loss"]
    assert float(state.typical) == pytest.approx(rows[-1]["near/loss"] + rows[-1]["far/loss"], rel=0.2)
    assert jax.tree.structure(state.opt_state) is not None and set(state.opt_state) == {"near", "far"}


def test_a_loss_that_couples_the_batch_is_not_accumulated() -> None:
    config = points()
    method = methods.build(config)
    coupled = method._replace(phases=(method.phases[0]._replace(couples_batch=True),))
    program.check_coupling(config, coupled)
    config.training.accumulate = 2
    program.check_coupling(config, method)
    with pytest.raises(UserError, match=r"training\.accumulate=2 .* loss of 'vdm' compares all examples"):
        program.functions(config, coupled, mesh_of(1))
