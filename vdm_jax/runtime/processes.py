"""What evaluation and sampling need so that several processes give what one would."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vdm_jax.errors import UserError
from vdm_jax.runtime.devices import put_state, replicated

SENTENCE = 1000  # bytes of an error that the other processes hear of


def say(text: str) -> None:
    """Print, on process 0 alone."""
    if jax.process_index() == 0:
        print(text, flush=True)


def placed(params: Any, mesh: Mesh) -> Any:
    """Parameters on the mesh: where they lie if they are there (split or not), else whole on every device."""
    devices = set(mesh.devices.flat)
    there = lambda a: isinstance(a, jax.Array) and a.sharding.device_set == devices
    if all(map(there, jax.tree.leaves(params))):
        return params
    return put_state(params, jax.tree.map(lambda _: replicated(mesh), params))


def agree(error: UserError | None) -> None:
    """Raise if any process has an error, on all of them, so that none waits for the others for ever."""
    if jax.process_count() == 1:
        if error is not None:
            raise error
        return
    words = np.zeros(SENTENCE, np.uint8)
    own = np.frombuffer(str(error or "").encode()[:SENTENCE], np.uint8)
    words[: len(own)] = own
    for heard in multihost_utils.process_allgather(words):
        if heard.any():
            raise UserError(bytes(heard).rstrip(b"\0").decode(errors="ignore")) from error
