"""What a notebook gets: NumPy arrays, and a model as a line of text."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict


def images(config: ConfigDict, drawn: np.ndarray) -> np.ndarray:
    """Return images as uint8 where the vocabulary allows it."""
    vocabulary = config.data.vocabulary
    return np.asarray(drawn).astype(np.uint8) if 0 < vocabulary <= 256 else np.asarray(drawn)


def description(config: ConfigDict, params: Any, step: int) -> str:
    """Describe a model in one line: method, network, data, shape, number of parameters, step."""
    data, count = config.data, sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    shape = " × ".join(map(str, data.shape))
    kind = f"{data.vocabulary} values" if data.vocabulary else "real numbers"
    return (
        f"Model(method={config.method!r}, network={config.model.network!r}, data={data.name!r} ({shape}, {kind}), "
        f"{count:,} parameters, step {step:,})"
    )
