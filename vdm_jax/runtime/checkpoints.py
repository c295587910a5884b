"""Checkpoints by Orbax: state, data position and checksums together, committed atomically, kept by number.

What was damaged on the disk is noticed, named and passed over.
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

# A NamedTuple of pytrees, the state of a run
State = TypeVar("State", bound=Any)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = ("RESOURCE_EXHAUSTED", "ENOSPC", "EDQUOT", "EFBIG", "No space left", "quota exceeded", "File too large")


class Saver(ocp.CheckpointManager):
    """Orbax's manager; a saving that failed in the background is told as a sentence by whatever waits for it."""

    def wait_until_finished(self) -> None:
        """Wait for the saving under way; UserError if it failed. `save` and `close` come through here too."""
        try:
            super().wait_until_finished()
        except UserError:
            raise
        except Exception as error:
            raise _not_saved(self, error) from error


def folder(workdir: epath.Path) -> epath.Path:
    """Where a working directory keeps its checkpoints; absolute, as Orbax demands. Buckets already are."""
    path = workdir / "checkpoints"
    return path if "://" in os.fspath(path) else path.absolute()


def steps(workdir: epath.Path) -> list[int]:
    """Committed steps, ascending; [] if there are none."""
    path = folder(workdir)
    return sorted(ocp.utils.checkpoint_steps(path)) if path.exists() else []


def manager(workdir: epath.Path, keep: int, keep_every: int = 0) -> Saver:
    """Saves in the background; removes what a killed run left half-written.

    Keeps the newest `keep`, and for good the steps that keep_every divides (0: none).
    """
    silence_orbax()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, keep_period=keep_every or None, cleanup_tmp_directories=True, create=True
    )
    try:
        return Saver(folder(workdir), options=options)
    except OSError as error:
        raise UserError(f"{folder(workdir)} cannot be made ({error.strerror}); use another --workdir") from error


def save(saver: Saver, state: Any, iterator: Any) -> None:
    """Save under state.step; returns before the bytes are on the disk. The state may be donated then.

    state: a NamedTuple of global arrays with a field `step`. iterator: its get_state() is JSON and the same on all
    processes, so that another number of them can go on. A step that is there already is left as it is. UserError if
    this saving, or the one before it in the background, failed.
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
    """Wait until everything is on the disk; UserError if something could not be written."""
    saver.wait_until_finished()


def _not_saved(saver: Saver, error: Exception) -> UserError:
    """Why a checkpoint could not be written, and what is there."""
    place, found = epath.Path(saver.directory), steps(epath.Path(saver.directory).parent)
    whole = f"the checkpoints there are whole ({', '.join(map(str, found))})" if found else "there is no earlier one"
    if _is_full(error):
        return UserError(
            f"the disk is full: no checkpoint could be written to {place}; {whole}; "
            "make room and run the same command again"
        )
    return UserError(f"no checkpoint could be written to {place} ({reason(error)}); {whole}")


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if (isinstance(error, OSError) and error.errno in _FULL) or any(word in str(error) for word in _FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def restore_newest(saver: Saver, like: State, iterator: Any, say: Callable[[str], None]) -> tuple[State, int] | None:
    """(state, step) of the newest whole checkpoint, None if there is none; moves the iterator there too.

    like: the abstract state, with shardings, that the state is laid out as. Damaged checkpoints that
    are newer are moved to <workdir>/damaged, with a sentence each. UserError if all are damaged, or
    one belongs to another model; nothing is moved then.
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
            say(f"checkpoint {number} is damaged ({how}); it is now {where}, and step {step} is used")
        if not checked:
            say(f"checkpoint {step} has no checksums: whether it is whole could not be checked")
        iterator.set_state(position)
        return type(like)(**tree), step
    if damaged:
        told = "; ".join(f"{number}: {how}" for number, how in damaged)
        raise UserError(
            f"all checkpoints in {saver.directory} are damaged ({told}); bring one back, or use a new --workdir"
        )
    return None


def set_aside(saver: Saver, chosen: Sequence[int], name: str = "damaged") -> list[epath.Path]:
    """Move these steps out of the manager's sight, to <workdir>/<name>/<step>, numbered if that is taken."""
    targets = [_free(epath.Path(saver.directory).parent / name, step) for step in chosen]
    if not chosen:
        return []
    _together("the places to move to are chosen")
    if jax.process_index() == 0:
        for step, target in zip(chosen, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            if "://" in os.fspath(target):
                (target.parent / ".keep").write_text("")  # a folder of a bucket exists once there is something in it
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
    """The state at `step`, laid out like the abstract state `like`; moves the iterator there too."""
    try:
        tree, position, _ = read(saver.directory / str(step), like._asdict())
    except Damage as damage:
        raise _damaged(saver.directory, step, saver.all_steps(), damage) from damage
    iterator.set_state(position)
    return type(like)(**tree)


def _damaged(place: epath.Path, step: int, found: Sequence[int], damage: Damage) -> UserError:
    before = [other for other in found if other < step]
    remedy = f"--mode=train tries step {max(before)}" if before else "there is no earlier one"
    return UserError(f"the checkpoint {place / str(step)} is damaged ({damage}); {remedy}")


def _together(event: str) -> None:
    multihost_utils.sync_global_devices(f"vdm_jax: {event}")


def restore_weights(workdir: epath.Path, which: str, like: Any, step: int | None = None) -> tuple[Any, int]:
    """('ema' or 'params' of the newest checkpoint on one device, its step), for eval and sampling."""
    found = steps(workdir)
    if not found:
        raise UserError(f"{folder(workdir)} holds no checkpoint; train first, with --mode=train")
    step = found[-1] if step is None else step
    if step not in found:
        raise UserError(f"{folder(workdir)} holds no checkpoint {step}; there are {', '.join(map(str, found))}")
    try:
        return read_part(folder(workdir) / str(step), which, like), step
    except Damage as damage:
        raise _damaged(folder(workdir), step, found, damage) from damage
