"""jit, fsdp, pmap, accumulation and calls of several steps: eight devices, twenty steps, one result."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tests.training.agreement import FOUR, WAYS
from tests.training.runs import images
from vdm_jax import methods
from vdm_jax.errors import UserError
from vdm_jax.networks.sharing import kernel_spec
from vdm_jax.runtime import devices
from vdm_jax.training.gradients import strided, unstrided
from vdm_jax.training.loop import next_stop
from vdm_jax.training.program import abstract_batch, check_parallelism, functions

QUICK = ["pmap, accumulated"]


def agreement(which: str, dtype: str, ways: list[str]) -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "tests.training.agreement", which, dtype, *ways]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def assert_agree(found: dict[str, dict[str, float]], ways: list[str], tolerance: float) -> None:
    assert set(found) == {*ways, "the steps themselves"}
    assert found["the steps themselves"]["params"] > 100 * tolerance
    for way in ways:
        assert max(found[way].values()) < tolerance, (way, found[way])


def test_all_ways_agree_in_float64() -> None:
    assert_agree(agreement("points", "float64", QUICK), QUICK, 1e-10)


@pytest.mark.slow
def test_levels_drawn_by_importance_are_the_same_everywhere() -> None:
    """The history of losses is gathered in the order of the global batch, so all devices draw from the same one."""
    assert_agree(agreement("levels", "float64", QUICK), QUICK, 1e-10)


@pytest.mark.slow
def test_the_turns_of_a_gan_agree() -> None:
    ways = [way for way in WAYS if way != "one"]
    assert_agree(agreement("gan", "float64", ways), ways, 1e-10)


@pytest.mark.slow
def test_groups_of_a_minibatch_are_the_same_everywhere() -> None:
    """A discriminator of images sees deviations over the whole batch, on eight devices and in two parts.

    The generator's last convolution is in float32, whatever the rest is.
    """
    ways = ["pmap, accumulated"]
    assert_agree(agreement("gan_images", "float64", ways), ways, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "dtype", "tolerance"),
    [("images", "float64", 1e-10), ("images", "float32", 3e-4)],
)
def test_all_ways_agree_for_the_unet(which: str, dtype: str, tolerance: float) -> None:
    ways = [way for way in WAYS if way != "one"]
    assert_agree(agreement(which, dtype, ways), ways, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["clip", "noised_clip"])
def test_a_loss_that_couples_its_batch_agrees_on_all_devices(which: str) -> None:
    """CLIP: the candidates are those of the global batch, also where embeddings are cached for accumulation."""
    ways = ["jit", "fsdp", "pmap", *FOUR, "one, accumulated", "fsdp, accumulated", "pmap, accumulated"]
    assert_agree(agreement(which, "float64", ways), ways, 1e-10)


@pytest.mark.slow
def test_batch_statistics_of_a_resnet_are_those_of_the_global_batch() -> None:
    ways = ["jit", "fsdp", "pmap"]
    assert_agree(agreement("clip_resnet", "float64", ways), ways, 1e-10)


def test_microbatches_are_strided_rows() -> None:
    rows = {"a": jnp.arange(12), "b": jnp.arange(24.0).reshape(12, 2)}
    parts = strided(rows, 3)
    np.testing.assert_array_equal(parts["a"], [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])
    np.testing.assert_array_equal(parts["b"][1, :, 0], [2, 8, 14, 20])
    for name, back in unstrided(parts).items():
        np.testing.assert_array_equal(back, rows[name])


@pytest.mark.parametrize(
    ("shape", "parts", "spec"),
    [
        ((32, 3, 3, 128, 128), 4, PartitionSpec(None, None, None, None, "fsdp")),
        ((3, 3, 128, 3), 4, PartitionSpec(None, None, "fsdp")),
        ((4, 6, 9), 2, PartitionSpec(None, "fsdp")),
        ((4, 7, 9), 2, PartitionSpec()),  # never the stack of blocks
        ((16, 16), 1, PartitionSpec(None, "fsdp")),
    ],
)
def test_where_kernels_lie(shape: tuple[int, ...], parts: int, spec: PartitionSpec) -> None:
    assert kernel_spec(shape, parts) == spec


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full", "convs"])
def test_fsdp_gathers_kernels_layer_by_layer_and_moves_no_activations(remat: str) -> None:
    config = images()
    config.training.fsdp, config.model.depth, config.model.width, config.model.remat = 2, 3, 16, remat
    mesh = devices.make_mesh(16, 2)
    method = methods.build(config)
    program = functions(config, method, mesh, {"xla_backend_optimization_level": 0})
    kept = sum(not s.is_fully_replicated for s in jax.tree.leaves(program.shardings.params))
    assert kept > 10
    text = program.step.lower(program.abstract, (abstract_batch(config, method),), None).compile().as_text()
    assert "all-to-all" not in text and "collective-permute" not in text
    gathers = [line.split(" = ")[1].split("{")[0] for line in text.splitlines() if " all-gather(" in line]
    # Forwards and backwards the blocks' kernels [3, 3, in, 16] are gathered one block at a time.
    assert sum(g.endswith("3,3,16,16]") for g in gathers) >= 8 and sum(g.endswith("3,3,32,16]") for g in gathers) == 2
    for gathered in gathers:
        assert not gathered.startswith(("f32[3,3,3,", "f32[4,3,3,")), gathered  # a whole stack
        assert gathered.count(",") < 3 or ",3,3," in gathered or "[3,3," in gathered, gathered  # an activation


def test_what_cannot_be_run_is_a_sentence() -> None:
    config = images()
    mesh = devices.make_mesh(16)
    config.training.accumulate = 3
    with pytest.raises(UserError, match=r"accumulate=3 must divide the 8 images .* try 2"):
        check_parallelism(config, mesh)
    config.training.accumulate, config.training.fsdp, config.training.parallelism = 1, 2, "pmap"
    with pytest.raises(UserError, match=r"use 'jit', or fsdp=1"):
        check_parallelism(config, mesh)
    config.training.parallelism, config.training.profile_steps = "jit", (5, 3)
    with pytest.raises(UserError, match="profile_steps"):
        check_parallelism(config, mesh)
    with pytest.raises(UserError, match=r"fsdp=3 must divide the 2 devices; try 2"):
        devices.make_mesh(16, 3)


def test_calls_end_where_something_is_due() -> None:
    section = images().training
    section.num_steps, section.log_every, section.checkpoint_every = 100, 30, 45
    section.eval_every = section.sample_every = 0
    assert [next_stop(section, number) for number in (0, 29, 30, 44, 45, 89, 90, 99)] == [
        30,
        30,
        45,
        45,
        60,
        90,
        100,
        100,
    ]
