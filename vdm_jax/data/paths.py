"""What every reader does with data.path."""

from __future__ import annotations

import hashlib

import numpy as np
from etils import epath

from vdm_jax.errors import UserError

SPLIT_SEED = 0  # of every split that we make ourselves


def refuse_path(name: str, path: str) -> None:
    """Raise UserError if data.path is set for a data set that needs none."""
    if path:
        raise UserError(f"data.path={path!r} is not used by {name!r}; leave it empty")


def existing(path: str, what: str) -> epath.Path:
    """data.path as a path, or UserError if it is empty or not there. what: what it should be."""
    if not path:
        raise UserError(f"data.path is empty; set --config.data.path to {what}")
    found = epath.Path(path).expanduser()
    try:
        there = found.exists()
    except (ImportError, OSError) as error:  # gs:// without gcsfs, or without permission
        raise UserError(f"data.path={path!r} can't be read: {error}") from error
    if not there:
        raise UserError(f"data.path={path!r} does not exist; it should be {what}")
    return found


def split_indices(count: int, part: str) -> np.ndarray:
    """Indices of a 90/10 split of `count` records: a permutation by SPLIT_SEED, cut."""
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    cut = count - count // 10
    return order[:cut] if part == "train" else order[cut:]


def file_hash(path: epath.Path) -> str:
    """First 12 hex digits of the file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]
