"""Running a program over many examples in batches of one size, with a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from vdm_jax import arguments
from vdm_jax.api.programs import Program, Rows
from vdm_jax.runtime import memory


class Batching(NamedTuple):
    """How examples are run. size: the most examples of a batch; progress: whether several batches show a bar."""

    size: int
    progress: bool = True


def batching(batch_size: int | None, default: int, progress: bool) -> Batching:
    """Return the batching that a user asks for; UserError for a size that is not a positive integer."""
    return Batching(default if batch_size is None else arguments.whole("batch_size", batch_size, 1), progress)


def run(program: Program, params: Any, shared: Sequence[Any], rows: Rows, count: int, how: Batching) -> list[Any]:
    """Run a program on all examples.

    The last batch is padded by copies of the last example, so that one compiled program serves all batches. The outputs
    of an example depend only on its row and `shared`, not on the rest of its batch.

    Args:
        program: (params, shared, rows [b, …]) → a tree of arrays [b, …].
        params: The parameters.
        shared: The values of `shared`, such as the keys of several passes; the program runs once for each.
        rows: A tree of arrays [count, …].
        count: The number of examples.
        how: The batch size and whether to show a bar.

    Returns:
        The outputs of all examples on the host, for each of `shared`.

    Raises:
        UserError: Memory has run out.
    """
    size = min(how.size, count)
    starts, rows = range(0, count, size), jax.tree.map(np.asarray, jax.device_get(rows))
    bar = tqdm(
        total=len(starts) * len(shared),
        unit="batch",
        dynamic_ncols=True,
        leave=False,
        disable=not how.progress or len(starts) * len(shared) < 2,
    )
    outputs = []
    with bar, memory.explained("this call", [f"pass a batch_size smaller than {size}", "fewer examples"]):
        for value in shared:
            parts = []
            for first in starts:
                index = np.minimum(np.arange(first, first + size), count - 1)
                parts.append(jax.device_get(program(params, value, _rows(rows, index))))
                bar.update()
            outputs.append(jax.tree.map(lambda *each: np.concatenate(each)[:count], *parts))
    return outputs


def _rows(rows: Rows, index: np.ndarray) -> Rows:
    return {**jax.tree.map(lambda column: column[index], rows), "index": index.astype(np.int32)}
