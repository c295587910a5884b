"""The first state of a run, and rollback after divergence."""

from __future__ import annotations

import json
import zlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vdm_jax import data
from vdm_jax.errors import UserError
from vdm_jax.runtime import checkpoints, devices, workdir
from vdm_jax.training.health import Verdict
from vdm_jax.training.program import Program
from vdm_jax.training.run import Run
from vdm_jax.training.state import TrainState

ROLLBACK = "rollback.json"


def recover(run: Run, verdict: Verdict, number: int) -> tuple[TrainState, int]:
    """Roll back to the latest checkpoint and skip the data up to step `number`.

    Returns:
      The restored state and its step.

    Raises:
      UserError: there is no checkpoint, or `training.on_bad` or the limit on rollbacks forbids it.
    """
    health = run.health
    checkpoints.finish(run.saver)
    newest = run.saver.latest_step()
    if newest is None or not health.may_go_back_to(newest):
        raise UserError(health.last_words(verdict, newest))
    position = run.iterator.get_state()
    restored = checkpoints.restore_newest(run.saver, _abstract(run.program), run.iterator, run.progress.say)
    if restored is None:
        raise UserError(health.last_words(verdict, None))
    state, step = restored
    run.iterator.set_state(position)
    if jax.process_index() == 0:  # a run that is killed before its next checkpoint skips the same data
        record = {"step": step, "position": position, "times": health.times(step)}
        workdir.write_json(run.directory / ROLLBACK, record)
    run.writer.rewind(step)
    run.progress.begin(step)
    run.progress.say(f"{verdict.reason}; rolled back to step {step}; continuing with the images after step {number}")
    return _after_rollback(state), step


def _after_rollback(state: TrainState) -> TrainState:
    """Reset the counter of bad steps after a rollback."""
    return state._replace(bad=jax.numpy.zeros_like(state.bad))


def _abstract(program: Program) -> TrainState:
    """Return the shapes, dtypes and shardings of the state, for restoring."""
    place = lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s)
    return jax.tree.map(place, program.abstract, program.shardings)


def first_state(run: Run, initial: Any) -> tuple[TrainState, int]:
    """Return the newest valid checkpoint and its step, or the initial state and 0.

    initial: subtrees of params that replace the initialization if there is no checkpoint, or None.
    """
    restored = checkpoints.restore_newest(run.saver, _abstract(run.program), run.iterator, run.progress.say)
    if restored is not None:
        return _rolled_back(run, *restored)
    state = run.program.init()
    if initial is not None:
        initial = {**state.params, **initial}
        # Copies, because the first step donates its state and `initial` belongs to the caller.
        params, ema = (
            devices.put_state(jax.tree.map(jax.numpy.copy, initial), run.program.shardings.params) for _ in range(2)
        )
        extra = run.method.init_extra(jax.tree.map(jax.numpy.copy, initial))
        extra = devices.put_state(extra, run.program.shardings.extra)
        state = state._replace(params=params, ema=ema, extra=extra)
    return state, 0


def _rolled_back(run: Run, state: TrainState, step: int) -> tuple[TrainState, int]:
    """Apply the record of an earlier rollback to this step, if there is one, to a restored state."""
    path = run.directory / ROLLBACK
    record = json.loads(path.read_text()) if path.exists() else {}
    if record.get("step") != step:
        return state, step
    run.iterator.set_state(record["position"])
    run.health.remember(step, record["times"])
    return _after_rollback(state), step


def same_everywhere(run: Run, dataset: data.Dataset) -> None:
    """Raise UserError if the processes of a job have different configs, data or checkpoints."""
    seen = {
        "config": json.dumps(run.config.to_dict(), sort_keys=True),
        "data set": json.dumps(dataset.identity, sort_keys=True),
        "checkpoints": str([sorted(run.saver.all_steps()), (run.directory / ROLLBACK).exists()]),
    }
    sums = np.array([zlib.crc32(text.encode()) for text in seen.values()], np.uint32)
    everywhere = np.reshape(multihost_utils.process_allgather(sums), (-1, len(seen)))
    different = [name for name, column in zip(seen, everywhere.T, strict=True) if len(set(column)) > 1]
    if different:
        raise UserError(
            f"the processes of this job differ in {' and '.join(different)}; start them with the same command, "
            "and a --workdir and data that all of them can read"
        )
