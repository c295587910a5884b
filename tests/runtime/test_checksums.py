"""Checksums: one flipped bit, two swapped elements, another layout, another structure."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vdm_jax.runtime import checksums

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint8", "bool", "float64", "int64", "float8_e4m3fn")


def random(dtype: str, shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    """Random bits of that dtype; to be called where 64 bits are allowed."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return jnp.asarray(rng.integers(0, 2, shape).astype(bool))
    raw = rng.integers(0, 256, (*shape, jnp.dtype(dtype).itemsize), np.uint8)
    return jnp.asarray(raw.view(jnp.dtype(dtype)).reshape(shape))


def one(leaf: Any) -> int:
    """By XLA and, as long as it is small, by numpy."""
    value = checksums.sums({"leaf": leaf})["leaf"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checksums, "_SMALL", 0)
        assert checksums.sums({"leaf": leaf})["leaf"] == value
    return value


def reference(words: np.ndarray) -> int:
    """Σ_i mix(word_i ⊕ φ·i) with Python's integers."""
    total = 0
    for place, word in enumerate(words.reshape(-1).tolist()):
        word ^= place * 0x9E3779B9 % 2**32
        word = (word ^ word >> 16) * 0x85EBCA6B % 2**32
        word = (word ^ word >> 13) * 0xC2B2AE35 % 2**32
        total += word ^ word >> 16
    return total % 2**32


@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_is_the_formula_over_the_words(dtype: str) -> None:
    with jax.enable_x64(True):
        leaf = random(dtype, (3, 5, 2))
        raw = np.asarray(leaf)
        size = raw.dtype.itemsize
        words = raw.view(f"u{min(size, 4)}") if size != 8 else raw.reshape(3, 5, 2, 1).view(np.uint32)
        assert one(leaf) == reference(words.astype(np.uint32))


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "bool"])
def test_every_flipped_bit_shows(dtype: str) -> None:
    with jax.enable_x64(True):
        leaf = np.asarray(random(dtype, (4, 3)))
        whole = one(jnp.asarray(leaf))
        for bit in range(8 * leaf.nbytes):
            flipped = leaf.copy()
            flipped.reshape(-1).view(np.uint8)[bit // 8] ^= 1 << bit % 8
            assert one(jnp.asarray(flipped)) != whole


def test_swapped_elements_and_rows_show() -> None:
    leaf = np.arange(12, dtype=np.float32).reshape(4, 3)  # few mantissa bits: the hardest case
    whole = one(jnp.asarray(leaf))
    for i in range(12):
        for j in range(i):
            swapped = leaf.copy().reshape(-1)
            swapped[[i, j]] = swapped[[j, i]]
            assert one(jnp.asarray(swapped.reshape(4, 3))) != whole
    assert one(jnp.asarray(leaf[::-1])) != whole


def test_typed_keys_are_summed_by_their_words() -> None:
    assert one(jax.random.key(3)) == reference(np.asarray(jax.random.key_data(jax.random.key(3))))
    assert one(jax.random.split(jax.random.key(3), 5)) != one(jax.random.split(jax.random.key(4), 5))


@pytest.mark.parametrize("spec", [PartitionSpec(), PartitionSpec("data"), PartitionSpec(None, "data")])
def test_sum_does_not_depend_on_the_layout(spec: PartitionSpec) -> None:
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    leaf = random("float32", (6, 4, 3))
    assert one(jax.device_put(leaf, NamedSharding(mesh, spec))) == one(leaf)


TREE = {"a": [jnp.ones((2, 3)), jnp.int32(4)], "b": {"c": jnp.zeros((), jnp.bfloat16)}}
POSITION = {"next_index": 7}


def test_record_survives_json_and_tells_what_changed() -> None:
    saved = checksums.check_record(json.loads(json.dumps(checksums.record(TREE, POSITION))))
    assert list(saved["leaves"]) == ["a/0", "a/1", "b/c"]
    assert checksums.changed(saved, TREE) == []
    assert checksums.changed(saved, {**TREE, "a": [jnp.ones((2, 3)), jnp.int32(5)]}) == ["a/1"]
    assert saved["data"] == checksums.crc({"next_index": 7}) != checksums.crc({"next_index": 8})


def test_a_changed_record_is_refused() -> None:
    text = json.dumps(checksums.record(TREE, POSITION))
    for place in range(len(text)):
        spoilt = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
        try:
            record = json.loads(spoilt)
        except ValueError:
            continue
        if record != json.loads(text):
            with pytest.raises(ValueError, match="the record of checksums has changed"):
                checksums.check_record(record)


@pytest.mark.parametrize(
    ("like", "told"),
    [
        (TREE, []),
        ({"a": TREE["a"]}, ["b/c is not part of this model"]),
        ({**TREE, "d": jnp.ones(3)}, ["d is missing from it"]),
        ({**TREE, "a": [jnp.ones((3, 2)), jnp.int32(4)]}, ["a/0 is float32 (2, 3) in it and float32 (3, 2) here"]),
        ({**TREE, "b": {"c": jnp.zeros(())}}, ["b/c is bfloat16 () in it and float32 () here"]),
    ],
)
def test_another_structure_is_told(like: Any, told: list[str]) -> None:
    assert checksums.mismatches(checksums.record(TREE, POSITION)["leaves"], jax.eval_shape(lambda: like)) == told
