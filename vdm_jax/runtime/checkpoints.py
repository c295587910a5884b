"""Orbax checkpoints of state, data position and checksums, committed atomically and numbered by step.

Damaged checkpoints are detected, reported and skipped.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from vdm_jax.errors import UserError
from vdm_jax.runtime import checksums
from vdm_jax.runtime.checkpoint_reading import Damage, read, read_part, reason
from vdm_jax.runtime.log_filters import silence_orbax

# A NamedTuple of pytrees: the state of a run
State = TypeVar("State", bound=Any)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = ("RESOURCE_EXHAUSTED", "ENOSPC", "EDQUOT", "EFBIG", "No space left", "quota exceeded", "File too large")


class Saver(ocp.CheckpointManager):
    """Orbax's manager; a background save that failed raises a UserError in the call that waits for it."""

    def wait_until_finished(self) -> None:
        """Wait for the save in progress; raise UserError if it failed. Also called by `save` and `close`."""
        try:
            super().wait_until_finished()
        except UserError:
            raise
        except Exception as error:
            raise _not_saved(self, error) from error


def folder(workdir: epath.Path) -> epath.Path:
    """Return the folder of checkpoints of a working directory, absolute as Orbax requires."""
    path = workdir / "checkpoints"
    return path if "://" in os.fspath(path) else path.absolute()


def steps(workdir: epath.Path) -> list[int]:
    """Return the committed steps in ascending order."""
    path = folder(workdir)
    return sorted(ocp.utils.checkpoint_steps(path)) if path.exists() else []


def manager(workdir: epath.Path, keep: int, keep_every: int = 0) -> Saver:
    """Return a manager that saves in the background; removes incomplete checkpoints of a killed run.

    Args:
      workdir: the working directory.
      keep: how many of the newest checkpoints are kept.
      keep_every: checkpoints at multiples of this step are kept permanently; 0 disables this.

    Raises:
      UserError: the folder cannot be created.
    """
    silence_orbax()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, keep_period=keep_every or None, cleanup_tmp_directories=True, create=True
    )
    try:
        return Saver(folder(workdir), options=options)
    except OSError as error:
        raise UserError(f"{folder(workdir)} cannot be created ({error.strerror}); use another --workdir") from error


def save(saver: Saver, state: Any, iterator: Any) -> None:
    """Save a checkpoint of `state.step`; an existing one is not overwritten.

    Returns before the bytes are on the disk; the state may be donated then.

    Args:
      saver: the manager.
      state: a NamedTuple of global arrays with a field `step`.
      iterator: its get_state() is JSON and equal on all processes, so that another number of processes can resume.

    Raises:
      UserError: this save, or the previous background save, failed.
    """
    step = int(jax.device_get(state.step))
    if step in saver.all_steps():
        return
    tree, position = state._asdict(), iterator.get_state()
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(tree),
        data=ocp.args.JsonSave(position),
        checksum=ocp.args.JsonSave(checksums.record(tree, position)),
    )
    try:
        saver.save(step, args=items, force=True)
    except UserError:
        raise
    except Exception as error:
        raise _not_saved(saver, error) from error


def finish(saver: Saver) -> None:
    """Wait until everything is on the disk; raise UserError if something could not be written."""
    saver.wait_until_finished()


def _not_saved(saver: Saver, error: Exception) -> UserError:
    """Return the error for a checkpoint that could not be written, naming the existing checkpoints."""
    place, existing = epath.Path(saver.directory), steps(epath.Path(saver.directory).parent)
    intact = f"existing checkpoints are intact ({', '.join(map(str, existing))})" if existing else "none exists yet"
    if _is_full(error):
        return UserError(
            f"the disk is full: no checkpoint could be written to {place}; {intact}; "
            "free some space and run the same command again"
        )
    return UserError(f"no checkpoint could be written to {place} ({reason(error)}); {intact}")


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if (isinstance(error, OSError) and error.errno in _FULL) or any(word in str(error) for word in _FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def restore_newest(saver: Saver, like: State, iterator: Any, say: Callable[[str], None]) -> tuple[State, int] | None:
    """Restore the newest valid checkpoint and set the data iterator to its position.

    Newer checkpoints that are damaged are moved to <workdir>/damaged.

    Args:
      saver: the manager.
      like: the abstract state, with shardings.
      iterator: the data iterator.
      say: prints a sentence on each damaged checkpoint.

    Returns:
      The state and its step, or None if there is no checkpoint.

    Raises:
      UserError: all checkpoints are damaged, or one belongs to another model; nothing is moved then.
    """
    finish(saver)
    saver.reload()
    damaged: list[tuple[int, Damage]] = []
    for step in sorted(saver.all_steps(), reverse=True):
        try:
            tree, position, checked = read(saver.directory / str(step), like._asdict())
        except Damage as damage:
            damaged.append((step, damage))
            continue
        moved = set_aside(saver, [number for number, _ in damaged])
        for (number, how), where in zip(damaged, moved, strict=True):
            say(f"checkpoint {number} is damaged ({how}); moved to {where}, using step {step} instead")
        if not checked:
            say(f"checkpoint {step} has no checksums: its integrity could not be verified")
        iterator.set_state(position)
        return type(like)(**tree), step
    if damaged:
        reasons = "; ".join(f"{number}: {how}" for number, how in damaged)
        raise UserError(
            f"all checkpoints in {saver.directory} are damaged ({reasons}); restore one from a backup, "
            "or use a new --workdir"
        )
    return None


def set_aside(saver: Saver, chosen: Sequence[int], name: str = "damaged") -> list[epath.Path]:
    """Move checkpoints out of the manager's folder.

    Args:
      saver: the manager.
      chosen: the steps to move.
      name: the target folder inside the working directory.

    Returns:
      The new paths <workdir>/<name>/<step>, with a numeric suffix if that exists.
    """
    targets = [_free(epath.Path(saver.directory).parent / name, step) for step in chosen]
    if not chosen:
        return []
    _together("the places to move to are chosen")
    if jax.process_index() == 0:
        for step, target in zip(chosen, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            if "://" in os.fspath(target):
                (target.parent / ".keep").write_text("")  # a folder in a bucket exists only if it is not empty
            (saver.directory / str(step)).rename(target)
    _together("checkpoints are moved")
    saver.reload()
    return targets


def _free(place: epath.Path, step: int) -> epath.Path:
    target, number = place / str(step), 1
    while target.exists():
        number += 1
        target = place / f"{step}-{number}"
    return target


def restore(saver: Saver, step: int, like: State, iterator: Any) -> State:
    """Restore the state at `step` and set the data iterator to its position.

    like: the abstract state, with shardings. Raises UserError if the checkpoint is damaged.
    """
    try:
        tree, position, _ = read(saver.directory / str(step), like._asdict())
    except Damage as damage:
        raise _damaged(saver.directory, step, saver.all_steps(), damage) from damage
    iterator.set_state(position)
    return type(like)(**tree)


def _damaged(place: epath.Path, step: int, existing: Sequence[int], damage: Damage) -> UserError:
    """Return the error for a damaged checkpoint."""
    before = [other for other in existing if other < step]
    remedy = f"--mode=train tries step {max(before)}" if before else "there is no earlier one"
    return UserError(f"the checkpoint {place / str(step)} is damaged ({damage}); {remedy}")


def _together(event: str) -> None:
    multihost_utils.sync_global_devices(f"vdm_jax: {event}")


def restore_weights(workdir: epath.Path, which: str, like: Any, step: int | None = None) -> tuple[Any, int]:
    """Restore one set of weights onto one device, for evaluation and sampling.

    Args:
      workdir: the working directory.
      which: 'ema' or 'params'.
      like: the abstract params.
      step: the checkpoint; None for the newest.

    Returns:
      The weights and their step.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    existing = steps(workdir)
    if not existing:
        raise UserError(f"{folder(workdir)} contains no checkpoint; train first, with --mode=train")
    step = existing[-1] if step is None else step
    if step not in existing:
        steps_there = ", ".join(map(str, existing))
        raise UserError(f"{folder(workdir)} contains no checkpoint {step}; there are {steps_there}")
    try:
        return read_part(folder(workdir) / str(step), which, like), step
    except Damage as damage:
        raise _damaged(folder(workdir), step, existing, damage) from damage
