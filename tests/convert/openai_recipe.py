"""Goldens of OpenAI's networks and the parameters they are of, made from their names, as goldens/README.md tells."""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from vdm_jax.networks.families import Settings
from vdm_jax.networks.multiscale import UNet


def value(key: str, size: tuple[int, ...]) -> np.ndarray:
    """A tensor of their state_dict, float32."""
    normal = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(size)
    if len(size) > 1 and not key.endswith(("label_emb.weight", "positional_embedding")):
        normal /= np.sqrt(np.prod(size[1:]))
    elif len(size) == 1:
        normal = 0.3 * normal + key.endswith("weight")
    return normal.astype(np.float32)


class Goldens(NamedTuple):
    """The cases of one file, each with inputs, outputs and the names and shapes of the original's parameters."""

    file: str

    def __call__(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a case."""
        return _read(self.file, name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an example."""
        return self(name)["z"].shape[1:]

    def state_dict(self, name: str) -> dict[str, np.ndarray]:
        """Of the original, which says itself what its parameters are called."""
        return _state_dict(self.file, name)

    def error(self, name: str, params: dict, s: Settings) -> float:
        """The largest difference from the original's output over the 1e-5 · max(1, |output|) that are allowed."""
        g = self(name)
        cond = {"label": g["labels"]} | ({"low_resolution": g["low"]} if "low" in g else {})
        out = np.asarray(_compiled(s)({"params": params}, g["z"], g["t"], cond))
        return np.abs(out - g["out"]).max() / (1e-5 * max(1.0, np.abs(g["out"]).max()))


@cache
def _read(file: str, name: str) -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "goldens" / file) as arrays:
        return {k.split("/")[1]: arrays[k] for k in arrays if k.startswith(f"{name}/")}


@cache
def _state_dict(file: str, name: str) -> dict[str, np.ndarray]:
    shapes = json.loads(_read(file, name)["shapes"].tobytes())
    return {key: value(key, tuple(size)) for key, size in shapes.items()}


@cache
def _compiled(s: Settings) -> jax.stages.Wrapped:
    return jax.jit(UNet(s).apply)
