"""Goldens of published CLIPs, and their parameters and inputs, drawn by their names (goldens/README.md)."""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np

# Tables of vectors, which are as large as what they are added to.
_TABLES = (
    "token_embedding.weight",
    "positional_embedding",
    "padding_embedding",
    "position_embedding.weight",
    "w_pos",
    "w_t",
    "w_voc",
)


def normal(name: str, size: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(size)


def value(name: str, size: tuple[int, ...]) -> np.ndarray:
    """A tensor of their state_dict, float32."""
    n = normal(name, size)
    if name.endswith("running_var"):
        n = 1 + 0.3 * np.abs(n)
    elif name == "logit_scale":
        n = 2 + 0.3 * n
    elif len(size) > 1 and not name.endswith(_TABLES):
        n = n * np.sqrt((2 if len(size) == 4 else 1) / np.prod(size[1:]))
    elif len(size) == 1:
        n = 0.3 * n + name.endswith(("weight", ".g"))
    return n.astype(np.float32)


def images(case: str, size: int) -> np.ndarray:
    """[3, size, size, 3] about [−1, 1]."""
    return (0.5 * normal(f"{case}/images", (3, size, size, 3))).astype(np.float32)


def texts(case: str, vocabulary: int, context: int, lengths: tuple[int, ...]) -> np.ndarray:
    """int32 [3, context]: that many tokens, of which the last is the largest id, then zeros."""
    ids = np.random.default_rng(zlib.crc32(f"{case}/ids".encode())).integers(1, vocabulary - 1, (len(lengths), context))
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1], row[length:] = vocabulary - 1, 0
    return ids.astype(np.int32)


@cache
def golden(case: str) -> dict[str, np.ndarray]:
    """The arrays of a case."""
    with np.load(Path(__file__).parent / "goldens" / "clip.npz") as arrays:
        return {name.split("/")[1]: arrays[name] for name in arrays if name.startswith(f"{case}/")}


@cache
def state_dict(case: str) -> dict[str, np.ndarray]:
    """Of the original, which says itself what its parameters are called."""
    shapes = json.loads(golden(case)["shapes"].tobytes())
    return {name: value(name, tuple(size)) for name, size in shapes.items()}
