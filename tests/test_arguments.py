"""Checks of a notebook's values: what is accepted equals its integer or real value, the rest is one sentence."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax import arguments
from vdm_jax.errors import UserError

LEVELS = np.arange(17).reshape(17, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64, jnp.bfloat16])
def test_integers_of_any_dtype_are_pixels(dtype: Any) -> None:
    found = arguments.pixels("images", LEVELS.astype(dtype), 17)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, LEVELS)
    np.testing.assert_array_equal(arguments.pixels("images", jnp.asarray(LEVELS), 17), LEVELS)


def test_the_advice_for_floats_in_the_unit_interval_recovers_the_pixels() -> None:
    x = LEVELS / 16.0
    with pytest.raises(
        UserError, match=r"^images must be integers from 0 to 16, not float64 from 0 to 1; if "
    ) as error:
        arguments.pixels("images", x, 17)
    advice = str(error.value).split("pass ")[1]
    assert advice == "np.round(x * 16).astype(int)"
    np.testing.assert_array_equal(arguments.pixels("images", eval(advice), 17), LEVELS)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (LEVELS + 1, "^images must be integers from 0 to 16, not 1 to 17; pass pixels of data with config.data.voc"),
        (LEVELS - 1, "^images must be integers from 0 to 16, not -1 to 15; "),
        ([0.0, np.nan], "^images must be finite numbers, but 1 of 2 are NaN or infinite"),
        (["a"], "^images must be numbers, not <U1"),
        ([1j], "^images must be numbers, not complex128"),
        (None, "^images must be numbers, not object"),
        ([[1], [1, 2]], "^images must be an array of numbers, all rows of the same shape"),
    ],
)
def test_other_values_are_a_sentence(given: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        arguments.pixels("images", given, 17)


def test_continuous_data_are_any_finite_numbers() -> None:
    x = np.array([-1.25, 0.0, 3.5])
    for vocabulary in (0, None):
        np.testing.assert_array_equal(arguments.pixels("images", x, vocabulary), x)
        with pytest.raises(UserError, match="images must be finite numbers"):
            arguments.pixels("images", np.array([np.inf]), vocabulary)


def test_counts_are_integers_within_bounds() -> None:
    assert arguments.whole("count", np.int64(3), 1) == 3 and arguments.whole("count", jnp.asarray(3), 1) == 3
    for given in (0, -1, 2.5, 2.0, None, "3", np.ones(2)):
        with pytest.raises(UserError, match=r"^count=.* must be an integer of at least 1$"):
            arguments.whole("count", given, 1)
    assert arguments.whole("seed", 2**32 - 1, *arguments.SEEDS) == 2**32 - 1
    for given in (-1, 2**32):
        with pytest.raises(UserError, match=rf"^seed={given} must be an integer from 0 to 4294967295$"):
            arguments.whole("seed", given, *arguments.SEEDS)


def test_one_number_for_each_sample() -> None:
    for given, expected in ((2, [2, 2, 2]), (np.float64(0.5), [0.5] * 3), ([0, 1, 2.5], [0, 1, 2.5])):
        found = arguments.for_each("weight", given, 3)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    for given, sentence in (
        (np.zeros(2), "^weight must be a finite number or one for each of the 3 samples"),
        ([[0.0, 1, 2]], "^weight must be a finite number or one for each of the 3 samples"),
        ([0, np.nan, np.inf], "^weight must be finite numbers, but 2 of 3 are NaN or infinite"),
        ("a", "^weight must be numbers, not <U1"),
    ):
        with pytest.raises(UserError, match=sentence):
            arguments.for_each("weight", given, 3)


def test_one_number_is_no_array() -> None:
    assert arguments.number("gamma", np.float32(0.5)) == arguments.number("gamma", jnp.asarray(0.5)) == 0.5
    for given, sentence in ((np.zeros(3), r"one number, not an array of shape \(3,\)"), ("a", "='a' must be a number")):
        with pytest.raises(UserError, match=sentence):
            arguments.number("gamma", given)
