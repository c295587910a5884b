"""Helpers by which evaluation and sampling return the same results on several processes as on one."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vdm_jax.errors import UserError
from vdm_jax.runtime.devices import put_state, replicated

SENTENCE = 1000  # bytes of an error message that are sent to the other processes


def say(text: str) -> None:
    """Print on process 0 only."""
    if jax.process_index() == 0:
        print(text, flush=True)


def placed(params: Any, mesh: Mesh) -> Any:
    """Place parameters on the mesh, replicated on every device; unchanged if they are already on it."""
    devices = set(mesh.devices.flat)
    there = lambda a: isinstance(a, jax.Array) and a.sharding.device_set == devices
    if all(map(there, jax.tree.leaves(params))):
        return params
    return put_state(params, jax.tree.map(lambda _: replicated(mesh), params))


def agree(error: UserError | None) -> None:
    """Raise UserError on all processes if any of them has an error, so that none waits for the others forever."""
    if jax.process_count() == 1:
        if error is not None:
            raise error
        return
    words = np.zeros(SENTENCE, np.uint8)
    own = np.frombuffer(str(error or "").encode()[:SENTENCE], np.uint8)
    words[: len(own)] = own
    for message in multihost_utils.process_allgather(words):
        if message.any():
            raise UserError(bytes(message).rstrip(b"\0").decode(errors="ignore")) from error
