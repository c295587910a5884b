"""The digits with their 17 values spread over 256, so that the values are as fine as in photographs.

Value v becomes ⌊256 (v + u)/17⌋, u uniform and drawn once. A model of these bytes pays log2(256/17) = 3.91 bits/dim for
the draw (a little less where a byte is shared by two values) in addition to the bits/dim of the digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from etils import epath

from experiments import models
from vdm_jax import data

LEVELS = 256
FIELDS = {"data.name": "npz", "data.vocabulary": LEVELS}


def spread(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Map 17 values to 256, uint8: ⌊256 (v + u)/17⌋, u uniform."""
    return np.floor((images + rng.random(images.shape)) * (LEVELS / 17)).astype(np.uint8)


def file(workdir: epath.Path) -> str:
    """Return the path of the data set as an `.npz` file, which is written if it does not exist."""
    return models.npz_file(workdir / "digits256.npz", _arrays)


def _arrays() -> dict[str, Any]:
    arrays = {}
    for number, part in enumerate(("train", "test")):
        source = data.load("digits", part).source
        arrays[f"x_{part}"] = spread(source.images, np.random.default_rng([17, number]))
        arrays[f"y_{part}"] = source.labels
    return arrays
