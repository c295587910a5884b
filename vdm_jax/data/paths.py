"""Helpers for data.path that all readers share."""

from __future__ import annotations

import hashlib

import numpy as np
from etils import epath

from vdm_jax.errors import UserError

SPLIT_SEED = 0  # the seed of every split that the library makes


def refuse_path(name: str, path: str) -> None:
    """Raise UserError if data.path is set for a data set that does not use it."""
    if path:
        raise UserError(f"data.path={path!r} is not used by {name!r}; leave it empty")


def existing(path: str, what: str) -> epath.Path:
    """Return data.path as a path.

    Args:
        path: data.path.
        what: A description of what the path should be, for messages.

    Raises:
        UserError: If data.path is empty, does not exist, or can't be read.
    """
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
    """Return the indices of a part of a 90/10 split of `count` records, permuted with SPLIT_SEED."""
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    cut = count - count // 10
    return order[:cut] if part == "train" else order[cut:]


def file_hash(path: epath.Path) -> str:
    """Return the first 12 hex digits of the file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]
