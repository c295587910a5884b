"""Read checkpoints of the library CLU: Flax msgpack files named by TensorFlow's checkpoint manager.

    checkpoint-final/                  the directory that a user copies
      checkpoints-0/                   one directory per host; all contain the same state
        checkpoint                     text: the name of the last complete checkpoint
        ckpt-41.flax                   msgpack of the train state, written before the text file
        ckpt-41.index, .data-…         TensorFlow's own state

The .flax file alone is sufficient.
"""

from __future__ import annotations

import re
from typing import Any

import flax.serialization
import msgpack
from etils import epath

from vdm_jax.errors import UserError

# Parameters, their EMA and two Adam moments of the largest published model (237.6M) are 3.8 GB.
MAX_BYTES = 16 * 2**30

_NUMBER = re.compile(r"-(\d+)\.flax$")
_LATEST = re.compile(r'^model_checkpoint_path: "(?:.*/)?([^"/]+)"', re.MULTILINE)
_MSGPACK_ERRORS = (ValueError, TypeError, KeyError, AttributeError, RecursionError, AssertionError)


def find(path: str) -> epath.Path | None:
    """Find the checkpoint file of `path`, or None if there is no CLU checkpoint.

    Args:
        path: A file, a prefix (…/ckpt-41), a directory of checkpoints, or its parent directory.
    """
    place = epath.Path(path).expanduser()
    try:
        if place.is_dir():
            hosts = sorted(place.glob("checkpoints-*"))
            return next(filter(None, map(_newest, [place, *hosts])), None)
        if place.exists():
            return place
        prefixed = place.parent / f"{place.name}.flax"
        return prefixed if prefixed.exists() else None
    except ImportError as error:  # a bucket, and no library that reads buckets
        raise UserError(
            f"{path} cannot be reached ({error}); install that or copy the checkpoint to this disk"
        ) from None


def _newest(directory: epath.Path) -> epath.Path | None:
    """Return the file that the index names, as a later one may be incomplete; without an index, the highest number."""
    index = directory / "checkpoint"
    if index.exists():
        named = _LATEST.search(index.read_text())
        if named and (directory / f"{named[1]}.flax").exists():
            return directory / f"{named[1]}.flax"
    numbered = [(int(m[1]), f) for f in directory.glob("*.flax") if (m := _NUMBER.search(f.name))]
    return max(numbered, key=lambda pair: pair[0])[1] if numbered else None


def restore(file: epath.Path) -> Any:
    """Read the tree of dicts and numpy arrays in a Flax msgpack file.

    Raises:
        UserError: The file is too large, truncated, or not a Flax msgpack file.
    """
    size = file.stat().length
    if size > MAX_BYTES:
        raise UserError(
            f"{file} has {size / 2**30:.0f} GiB, more than any published checkpoint "
            f"({MAX_BYTES / 2**30:.0f} GiB is the limit); is it the right file?"
        )
    try:
        return flax.serialization.msgpack_restore(file.read_bytes())
    except (*_MSGPACK_ERRORS, msgpack.exceptions.UnpackException) as error:
        reason = str(error).split("\n")[0].rstrip(".") or type(error).__name__
        raise UserError(
            f"{file} ({size:,} bytes) is cut short or is no Flax msgpack file ({reason}); copy it again"
        ) from None
