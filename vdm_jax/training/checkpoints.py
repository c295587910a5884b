"""Checkpoints by Orbax: state and data position together, committed atomically, kept by number."""

from __future__ import annotations

import os
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from etils import epath

from vdm_jax.errors import UserError
from vdm_jax.training.state import TrainState


def folder(workdir: epath.Path) -> epath.Path:
    """Where a working directory keeps its checkpoints; absolute, as Orbax demands. Buckets already are."""
    path = workdir / "checkpoints"
    return path if "://" in os.fspath(path) else path.absolute()


def steps(workdir: epath.Path) -> list[int]:
    """Committed steps, ascending; [] if there are none."""
    path = folder(workdir)
    return sorted(ocp.utils.checkpoint_steps(path)) if path.exists() else []


def manager(workdir: epath.Path, keep: int) -> ocp.CheckpointManager:
    """Saves in the background; keeps the newest `keep`; removes what a killed run left half-written."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True, create=True)
    try:
        return ocp.CheckpointManager(folder(workdir), options=options)
    except OSError as error:
        raise UserError(f"{folder(workdir)} cannot be made ({error.strerror}); use another --workdir") from error


def save(saver: ocp.CheckpointManager, state: TrainState, iterator: Any) -> None:
    """Save under state.step; returns before the bytes are on the disk."""
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(state._asdict()),
        data=grain.checkpoint.CheckpointSave(iterator),
    )
    saver.save(int(state.step), args=items, force=True)


def restore(saver: ocp.CheckpointManager, step: int, like: TrainState, iterator: Any) -> TrainState:
    """The state at `step`, laid out like the abstract state `like`; moves the iterator there too."""
    items = ocp.args.Composite(
        state=ocp.args.StandardRestore(like._asdict()),
        data=grain.checkpoint.CheckpointRestore(iterator),
    )
    try:
        restored = saver.restore(step, args=items)
    except Exception as error:  # Orbax raises bare Exceptions, KeyError and ValueError alike
        raise _unreadable(epath.Path(saver.directory), step, list(saver.all_steps()), error) from error
    return TrainState(**restored["state"])


def restore_weights(workdir: epath.Path, which: str, like: Any, step: int | None = None) -> tuple[Any, int]:
    """('ema' or 'params' of the newest checkpoint on one device, its step), for eval and sampling."""
    found = steps(workdir)
    if not found:
        raise UserError(f"{folder(workdir)} holds no checkpoint; train first, with --mode=train")
    step = found[-1] if step is None else step
    if step not in found:
        raise UserError(f"{folder(workdir)} holds no checkpoint {step}; there are {', '.join(map(str, found))}")
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {which: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), like)}
    arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            tree = reader.restore(
                folder(workdir) / str(step) / "state",
                args=ocp.args.PyTreeRestore(item=abstract, restore_args=arguments, partial_restore=True),
            )
    except Exception as error:
        raise _unreadable(folder(workdir), step, found, error) from error
    return tree[which], step


def _unreadable(place: epath.Path, step: int, found: list[int], error: Exception) -> UserError:
    lines = str(error).strip().splitlines() or [""]
    before = [other for other in found if other < step]
    remedy = f"remove it to go back to step {max(before)}" if before else "remove it to start again from step 0"
    reason = f"{type(error).__name__}: {lines[0][:200]}".rstrip(".: ")
    return UserError(f"the checkpoint {place / str(step)} cannot be read ({reason}); {remedy}")
