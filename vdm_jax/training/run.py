"""The objects that all steps of a run share."""

from __future__ import annotations

from typing import Any, NamedTuple

import grain
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax.core.method import Method
from vdm_jax.runtime import checkpoints
from vdm_jax.runtime.preemption import Preemption
from vdm_jax.training.health import Health
from vdm_jax.training.metrics import MetricsWriter, Progress
from vdm_jax.training.program import Program
from vdm_jax.training.state import TrainState


class Run(NamedTuple):
    """The objects that all steps of a run share."""

    config: ConfigDict
    directory: epath.Path
    method: Method
    mesh: Mesh
    program: Program
    iterator: grain.DatasetIterator[dict[str, np.ndarray]]
    saver: Any
    writer: MetricsWriter
    progress: Progress
    preemption: Preemption
    health: Health
    frozen: Any


def due(every: int, step: int) -> bool:
    """Return True every `every` steps, and never if `every` is 0."""
    return every > 0 and step % every == 0


def save(run: Run, state: TrainState) -> None:
    """Flush the metrics, then save a checkpoint."""
    run.writer.flush()
    checkpoints.save(run.saver, state, run.iterator)


def averaged(run: Run, state: TrainState) -> Any:
    """Return the weights selected by `evaluation.weights`, with the frozen parts."""
    return {**run.frozen, **(state.ema if run.config.evaluation.weights == "ema" else state.params)}
