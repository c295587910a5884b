"""The train step on one and on two devices, its keys, and what XLA makes of it."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.runs import BATCH, FAST, functions, images, mesh_of, points
from vdm_jax import conditioning, data, methods
from vdm_jax.gaussian.continuous import sample_times
from vdm_jax.keys import example_keys, normal_like
from vdm_jax.methods.vdm import TIME
from vdm_jax.networks.layers import dropout
from vdm_jax.runtime import devices
from vdm_jax.training.program import abstract_batch
from vdm_jax.training.state import num_parameters
from vdm_jax.training.step import context_for

STEPS = 4


class Compiled:
    """The step of the tiny U-Net for a number of devices, and the states it goes through."""

    def __init__(self, count: int):
        config = images()
        self.mesh = mesh_of(count)
        method = methods.build(config)
        program = functions(config, method, self.mesh)
        self.abstract, described = program.abstract, abstract_batch(config, method)
        del described["replaced"]
        self.step = program.step.lower(self.abstract, (described,), None).compile()
        batches = data.train_iterator(data.load("digits", "train"), seed=1, batch_size=BATCH, augment=("flip",))
        # One start for both meshes: how XLA fuses the initial draws may differ in the last bit.
        first = jax.device_get(functions(config, method, mesh_of(2)).init())
        state = jax.device_put(first, devices.replicated(self.mesh))
        self.losses = []
        for _ in range(STEPS):
            batch = conditioning.batch_of(method.conditions, next(batches))
            del batch["replaced"]
            state, report = self.step(state, (devices.put_batch(self.mesh, batch),), None)
            self.losses.append(float(report.loss))
        self.state = jax.device_get(state)


@pytest.fixture(scope="module")
def compiled() -> dict[int, Compiled]:
    return {count: Compiled(count) for count in (1, 2)}


@pytest.mark.slow
def test_one_and_two_devices_take_the_same_steps(compiled: dict[int, Compiled]) -> None:
    one, two = compiled[1], compiled[2]
    np.testing.assert_allclose(one.losses, two.losses, rtol=1e-6)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one.state), jax.tree.leaves(two.state), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6, err_msg=jax.tree_util.keystr(path))
    moved = jax.tree.map(lambda p, e: float(np.abs(p - e).max()), one.state.params, one.state.ema)
    assert max(jax.tree.leaves(moved)) > 1e-4  # the steps were steps


def test_state_keeps_its_types_so_that_the_step_is_compiled_once() -> None:
    for config in (points(), images()):
        method = methods.build(config)
        program = functions(config, method, mesh_of(2))
        before = program.abstract
        after, _ = jax.eval_shape(program.step, before, (abstract_batch(config, method),), None)
        described = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype, a.weak_type), tree)
        assert described(before) == described(after)


def collectives(text: str) -> list[tuple[str, int]]:
    """(operation, elements of its result) of every collective in compiled HLO."""
    found = []
    pattern = r" = (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
    for result, name in re.findall(pattern, text):
        sizes = [int(np.prod([int(n) for n in dims.split(",") if n])) for dims in re.findall(r"\[([\d,]*)\]", result)]
        found.append((name, sum(sizes)))
    return found


@pytest.mark.slow
def test_devices_exchange_gradients_and_metrics_only(compiled: dict[int, Compiled]) -> None:
    # Convolutions' weight gradients contract over the split batch: a partial sum on each device and
    # one reduction of kernel size, never an all-gather of activations.
    found = collectives(compiled[2].step.as_text())
    assert {name for name, _ in found} == {"all-reduce"}
    parameters = num_parameters(compiled[2].abstract.params)
    elements = sum(size for _, size in found)
    # A gradient reduced within the loop over blocks is counted once here, for all of its blocks.
    assert parameters / 2 < elements < parameters + 100
    assert collectives(compiled[1].step.as_text()) == []


def test_times_noise_and_dropout_depend_on_the_position_alone() -> None:
    def draw(mesh: Any) -> Any:
        def draws() -> tuple[jax.Array, ...]:
            context = context_for(7, jnp.int32(3), 0, BATCH)
            stratified, independent = (sample_times(kind, context, TIME) for kind in ("stratified", "independent"))
            noise = normal_like(context.keys, (8, 8, 3), 1)
            return stratified, independent, noise, dropout(jnp.ones((BATCH, 8, 8, 4)), 0.3, context.keys)

        return [np.asarray(a) for a in jax.jit(draws, out_shardings=devices.split(mesh), compiler_options=FAST)()]

    drawn = draw(mesh_of(1))
    for one, two in zip(drawn, draw(mesh_of(2)), strict=True):
        np.testing.assert_array_equal(one, two)
    for values in drawn:
        assert len(np.unique(values.reshape(BATCH, -1), axis=0)) == BATCH  # no two places share theirs


def test_noise_of_an_example_does_not_depend_on_its_neighbors() -> None:
    keys = example_keys(jax.random.key(5), jnp.arange(12))
    later = example_keys(jax.random.key(5), 9 + jnp.arange(3))
    np.testing.assert_array_equal(normal_like(keys, (5,), 2)[9:], normal_like(later, (5,), 2))
    assert not np.array_equal(normal_like(later, (5,), 2), normal_like(later, (5,), 3))


def test_steps_seeds_and_phases_draw_anew() -> None:
    def bits(seed: int, step: int, phase: int) -> bytes:
        context = context_for(seed, jnp.int32(step), phase, 4)
        return np.asarray(jax.random.key_data(context.keys)).tobytes()

    places = [(seed, step, phase) for seed in (0, 1) for step in (0, 1, 2) for phase in (0, 1)]
    assert len({bits(*place) for place in places}) == len(places)
