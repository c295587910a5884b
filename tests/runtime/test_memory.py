"""Exhausted memory: which exceptions mean it, and the settings that the sentence names."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax import config as configs
from vdm_jax.errors import UserError
from vdm_jax.runtime import memory

HBM = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.6G of 15.5G.\n"
    "Total hbm usage >= 20.6G:\n    reserved 530.00M"
)


def test_array_too_large_for_xla_and_for_numpy_is_a_sentence_with_its_cause() -> None:
    """XLA at run time (40 TB), and NumPy (728 TiB)."""
    with (
        pytest.raises(UserError, match=r"^out of memory in training \(.*40000000000000 bytes\); a or b$") as told,
        memory.explained("training", ["a", "b"]),
    ):
        jax.block_until_ready(jax.jit(lambda x: jnp.full((10**13,), x))(np.float32(2)))
    assert isinstance(told.value.__cause__, jax.errors.JaxRuntimeError)
    with (
        pytest.raises(UserError, match=r"^out of memory in x \(Unable to allocate 728. TiB .*\); a$") as told,
        memory.explained("x", ["a"]),
    ):
        np.zeros(10**14)
    assert isinstance(told.value.__cause__, MemoryError)


def test_first_line_of_a_compilers_message_is_quoted() -> None:
    with pytest.raises(UserError) as told, memory.explained("sampling", ["a", "b", "c"]):
        raise jax.errors.JaxRuntimeError(HBM)
    said = "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.6G of 15.5G"
    assert str(told.value) == f"out of memory in sampling ({said}); a, b or c"


@pytest.mark.parametrize("error", [ValueError("out of memory"), jax.errors.JaxRuntimeError("INTERNAL: no kernel")])
def test_other_exceptions_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as passed, memory.explained("training", ["a"]):
        raise error
    assert passed.value is error


def test_settings_that_a_config_has_are_named() -> None:
    config = configs.base()  # batch 64, U-Net with remat
    assert memory.when_training(config, 2) == [
        "set config.training.accumulate=2 (it is 1)",
        "config.model.remat='full'",
        "config.training.fsdp=2",
        "a config.data.batch_size smaller than 64",
    ]
    config.training.accumulate, config.model.remat = 64, "full"
    assert memory.when_training(config, 1) == ["a config.data.batch_size smaller than 64"]
    assert memory.when_evaluating(config) == ["set config.evaluation.batch_size to less than 64"]
    config.evaluation.num_samples = 5
    assert memory.when_evaluating(config)[1:] == ["set config.sampling.batch_size to less than 64"]


def test_number_of_samples_is_bounded_by_memory_and_by_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten arrays of 4 bytes per value: 1,000 samples of 64 values with 9 latents take 2,560,000 bytes."""
    monkeypatch.setattr(memory, "host", lambda: 2_560_000)
    memory.check_samples("n", 1000, (8, 8, 1), 9)
    with pytest.raises(UserError, match=r"^n=1001 samples take 0 GiB of memory, and .* draw fewer at a time"):
        memory.check_samples("n", 1001, (8, 8, 1), 9)
    monkeypatch.setattr(memory, "host", lambda: 0)  # unknown
    memory.check_samples("n", 2**31 - 1, (2,))
    with pytest.raises(UserError, match="n=2147483648 samples"):
        memory.check_samples("n", 2**31, (2,))
