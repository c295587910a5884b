"""Distillation: targets that undo a step, students whose loss is zero, and a teacher that stays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from tests.methods.test_ddpm import D, batch_of, exact, keys_for, settings
from vdm_jax.config import choose
from vdm_jax.core.method import Context
from vdm_jax.diffusion import samplers, tables
from vdm_jax.diffusion.prediction import Prediction, eps_from_x
from vdm_jax.errors import UserError
from vdm_jax.methods import ddpm, distill
from vdm_jax.modes import run_train
from vdm_jax.training.loop import train


def context_of(count: int) -> Context:
    return Context(keys_for(count), jax.random.key(2), jnp.arange(count), count)


def student(kind: str, steps: int, **changes: Any) -> ConfigDict:
    """A config that distils, sampled as its student can be."""
    return settings(
        training__distill=kind,
        **({"training__student_steps": steps} if kind == "progressive" else {}),
        sampling__sampler="ddim",
        sampling__respacing=f"even{steps}",
        sampling__num_steps=steps,
        **changes,
    )


def test_even_levels_nest() -> None:
    for total in (50, 1000, 17):
        for steps in (1, 2, 3, 8):
            student, teacher = (tables.spaced(total, f"even{n}") for n in (steps, 2 * steps))
            assert teacher[1::2] == student and student[-1] == total - 1 and len(set(teacher)) == 2 * steps


def test_one_step_with_the_target_ends_where_two_steps_ended() -> None:
    table = tables.from_betas(tables.merge(tables.linear_betas(1000), tables.spaced(1000, "even8")))
    number = jnp.array([0, 1, 2, 3])
    first, second = table.at(2 * number + 1), table.at(2 * number)
    z, z_to = (jax.random.normal(jax.random.key(k), (4, 3)) for k in (0, 1))
    x = distill.target(z, z_to, first, second)
    half = tables.from_betas(tables.merge(tables.linear_betas(1000), tables.spaced(1000, "even4"))).at(number)
    predict = lambda z, level: Prediction(x, eps_from_x(z, x, level))
    np.testing.assert_allclose(samplers.ddim(predict)(keys_for(4), z, half), z_to, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(x[0], z_to[0], rtol=1e-5)  # at the data itself x is where the steps ended


@pytest.mark.slow
def test_a_finer_teacher_is_easier_to_follow() -> None:
    """Exact ε̂ as teacher and student: the loss is the student's discretization error and falls as 1/N² or faster."""
    found = []
    for steps in (4, 16, 64):
        config = student("progressive", steps, schedule__num_timesteps=1000)
        loss = ddpm.student_loss(config, exact(config))
        _, aux = loss({"network": {}, "teacher": {"network": {}}}, (), batch_of(2000), context_of(2000))
        found.append(float(jnp.mean(aux["error"])))
    assert found[1] < found[0] / 10 and found[2] < found[1] / 10


@pytest.mark.slow
def test_regression_of_the_right_line_has_no_loss() -> None:
    """For Gaussian data DDIM maps z_T to c z_T; a student that says so has loss 0, one that says 2 c z_T (c z)²."""
    config = student("one_step", 1, training__teacher_steps=10)
    model = exact(config)
    table = model.spaced("even10")
    z = jnp.ones((1, D))
    predict = samplers.predictor(model.denoise({"network": {}}), model.split, {})
    line, _ = samplers.run(samplers.ddim(predict), z, keys_for(1), table.reverse())
    scale: Any = None

    def predictor(params: Any, cond: Any, keys: Any) -> samplers.Predict:
        if not isinstance(params, dict):  # the teacher's
            return samplers.predictor(model.denoise({"network": {}}), model.split, cond)
        return lambda z, level: Prediction(scale * line * z, z)

    loss = distill.one_step_loss(predictor, table, (D,), lambda batch, keys: batch, lambda params: 0.0)
    scale = 1.0
    np.testing.assert_allclose(loss({}, (), batch_of(50), context_of(50))[0], 0, atol=1e-10)
    scale = 2.0
    off, _ = loss({}, (), batch_of(4000), context_of(4000))
    np.testing.assert_allclose(jnp.mean(off), line[0, 0] ** 2, rtol=0.05)


def test_truncated_snr() -> None:
    np.testing.assert_allclose(distill.truncated_snr(jnp.array([-2.0, 0.0, 3.0])), [np.exp(2), 1, 1], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["progressive", "one_step"])
def test_a_student_learns_and_its_teacher_stays(kind: str, tmp_path: Any) -> None:
    config = settings(model__prediction="v", training__num_steps=60, training__checkpoint_every=60)
    config.data.name, config.data.shape, config.data.batch_size = "swirl", (2,), 64
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 3e-3, 0
    teacher = train(config, epath.Path(tmp_path / "teacher"), finish=False).ema
    choose(config, {"training.distill": kind} | ({"training.teacher_steps": 4} if kind == "one_step" else {}))
    before = jax.device_get(teacher)
    frozen = {"teacher": teacher}
    state = train(config, epath.Path(tmp_path / "student"), teacher, finish=False, frozen=frozen)
    assert set(state.params) == {"network"} and state.extra == ()  # it is in no checkpoint
    for ours, theirs in zip(jax.tree.leaves(frozen["teacher"]), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(teacher), strict=True)]
    assert max(moved) > 1e-3


def test_a_student_without_a_teacher_is_a_sentence(tmp_path: Any) -> None:
    config = student("progressive", 4)
    with pytest.raises(
        UserError, match=r"training\.teacher is missing: this model needs a teacher; set it to its working"
    ):
        run_train(config, epath.Path(tmp_path / "run"), None)
