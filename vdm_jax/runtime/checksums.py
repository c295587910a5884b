"""Checksums of a state, because Orbax silently restores flipped bits and cast dtypes.

The record that is saved with a state has the dtype, the shape and a checksum of every leaf; it also covers
the data position and itself.
"""

from __future__ import annotations

import functools
import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec

_GOLDEN = np.uint32(0x9E3779B9)  # ⌊2^32/φ⌋, odd: neighboring positions differ in all bits
_SMALL = 2**16  # bytes


def leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves by path, such as 'params/conv/kernel', in the order of jax.tree.leaves."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}


def describe(leaf: Any) -> list[Any]:
    """Return [dtype, shape] of a concrete or abstract array, as JSON values."""
    return [str(leaf.dtype), list(leaf.shape)]


def leaf_sum(leaf: Array) -> Array:
    """Compute Σ_i mix(word_i ⊕ φ·i) mod 2^32 over the 32-bit words of a leaf, uint32 [].

    mix is a bijection, so one flipped bit always changes the sum; the index i detects swapped elements.
    Integer sums do not depend on the order, so the result is the same for any sharding.
    """
    words = lax.bitcast_convert_type(leaf, _word(leaf.dtype)).astype(jnp.uint32)
    place, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        place += jnp.uint32(stride % 2**32) * lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        stride *= words.shape[axis]
    return jnp.sum(_mix(words ^ (place * _GOLDEN)), dtype=jnp.uint32)


def host_sum(leaf: np.ndarray) -> int:
    """Compute `leaf_sum` in numpy, for small leaves, where a compilation per shape does not pay off."""
    words = np.ascontiguousarray(leaf).reshape(-1).view(_word(leaf.dtype)).astype(np.uint32)
    place = np.arange(words.size, dtype=np.uint32)
    return int(np.sum(_mix(words ^ (place * _GOLDEN)), dtype=np.uint32))


def _word(dtype: Any) -> np.dtype:
    """Return the unsigned dtype as which a leaf is read; 64 bits are two words."""
    return np.dtype(f"uint{8 * min(dtype.itemsize, 4)}")


def _mix(words: Any) -> Any:
    """Apply the finalizer of MurmurHash3 (Appleby, public domain), a bijection on 32 bits."""
    words = (words ^ (words >> 16)) * np.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * np.uint32(0xC2B2AE35)
    return words ^ (words >> 16)


@functools.lru_cache
def _compiled(sharding: NamedSharding | None) -> Any:
    return jax.jit(lambda arrays: jnp.stack([leaf_sum(a) for a in arrays]), out_shardings=sharding)


def _plain(leaf: Array) -> Array:
    """Return PRNG keys as their words and booleans as bytes."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf


def sums(tree: Any) -> dict[str, int]:
    """Return `leaf_sum` of every leaf by path; equal on all processes."""
    named = {path: _plain(leaf) for path, leaf in leaves(tree).items()}
    small = {path: a for path, a in named.items() if a.nbytes <= _SMALL and a.is_fully_replicated}
    large = {path: a for path, a in named.items() if path not in small}
    values = {path: host_sum(a) for path, a in jax.device_get(small).items()}
    if large:
        shardings = [a.sharding for a in large.values() if isinstance(a.sharding, NamedSharding)]
        replicated = NamedSharding(shardings[0].mesh, PartitionSpec()) if shardings else None
        computed = jax.device_get(_compiled(replicated)(list(large.values())))
        values |= {path: int(value) for path, value in zip(large, computed, strict=True)}
    return values


def crc(value: Any) -> int:
    """Return the CRC-32 of a JSON value."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def record(tree: Any, position: Any) -> dict[str, Any]:
    """Return the record of a state: [dtype, shape, sum] by path, and checksums of the data position and of itself."""
    summed = sums(tree)
    body = {
        "leaves": {path: [*describe(leaf), summed[path]] for path, leaf in leaves(tree).items()},
        "data": crc(position),
    }
    return {**body, "self": crc(body)}


def check_record(saved: Any) -> dict[str, Any]:
    """Return a record without its own checksum; raise ValueError if anything in it has changed."""
    if not isinstance(saved, dict) or saved.pop("self", None) != crc(saved):
        raise ValueError("the record of checksums has changed")
    return saved


def changed(saved: dict[str, Any], tree: Any) -> list[str]:
    """Return the paths of the leaves of `tree` that differ from the record."""
    summed = sums(tree)
    return [path for path, leaf in leaves(tree).items() if saved["leaves"][path] != [*describe(leaf), summed[path]]]


def mismatches(saved: dict[str, Any], like: Any) -> list[str]:
    """Describe how the saved leaves differ from those of `like` in name, dtype or shape."""
    there = {path: [dtype, shape] for path, (dtype, shape, *_) in saved.items()}
    here = {path: describe(leaf) for path, leaf in leaves(like).items()}
    different = [f"{path} is missing from it" for path in here if path not in there]
    different += [f"{path} is not part of this model" for path in there if path not in here]
    different += [
        f"{path} is {_text(there[path])} in it and {_text(here[path])} here"
        for path in here
        if path in there and there[path] != here[path]
    ]
    return different


def _text(described: list[Any]) -> str:
    return f"{described[0]} {tuple(described[1])}"
