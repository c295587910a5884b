"""Reading one checkpoint from its folder and detecting damage.

The folder of a step contains three items: `state` (arrays), `data` (the position of the data iterator)
and `checksum` (the record of `vdm_jax.runtime.checksums`, which checkpoints of early versions lack).
"""

from __future__ import annotations

import errno
import json
import re
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from vdm_jax.errors import UserError
from vdm_jax.runtime import checksums
from vdm_jax.runtime.log_filters import silence_orbax
from vdm_jax.runtime.processes import agree


class Damage(Exception):
    """A checkpoint differs from what was saved; the message says in what way."""


# Transient errors of disk, network or memory: the checkpoint is not considered damaged.
_PASSING = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EMFILE)
_PASSING_WORDS = ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "Out of memory")
_CODES = ("DATA_LOSS", "OUT_OF_RANGE", "NOT_FOUND", "FAILED_PRECONDITION")  # of TensorStore


def trouble(place: epath.Path, what: str, error: Exception) -> Exception:
    """Return Damage, or a UserError if `error` is transient and the checkpoint may be intact."""
    passing = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _PASSING)
    said = f"{error} {error.__cause__ or ''}"
    if passing or any(word in said for word in _PASSING_WORDS):
        return UserError(f"the checkpoint {place} cannot be read now ({reason(error)}); nothing was changed, try again")
    return Damage(f"{what} cannot be read: {_damage(error)}")


def read(place: epath.Path, like: Any) -> tuple[Any, Any, bool]:
    """Read a checkpoint; errors are raised on all processes or on none.

    Args:
      place: the folder of the checkpoint.
      like: the abstract tree, with shardings.

    Returns:
      The tree with the structure and shardings of `like`, the data position, and whether checksums were verified.

    Raises:
      Damage: the checkpoint is damaged.
      UserError: it belongs to another model, or cannot be read at the moment.
    """
    saved, tree, position, how, refusal = None, None, None, "", None
    try:
        saved = _record(place)
        _check_structure(place, saved["leaves"] if saved else _described(place), like)
        position = _position(place, saved)
        tree = _arrays(ocp.StandardCheckpointHandler, place, ocp.args.StandardRestore(like))
    except Damage as damage:
        how = str(damage)
    except UserError as error:
        refusal = error
    agree(refusal)
    _agree(how)  # before the checksums, which all processes compute together
    if saved:
        _agree(_changes(saved, tree))
    return tree, position, saved is not None


def read_part(place: epath.Path, which: str, like: Any) -> Any:
    """Read the subtree `which` onto one device; each process reads its own copy.

    Raises:
      Damage: the checkpoint is damaged.
      UserError: it belongs to another model, or cannot be read at the moment.
    """
    saved = _record(place)
    described = saved["leaves"] if saved else _described(place)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = {which: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), like)}
    _check_structure(place, {path: leaf for path, leaf in described.items() if path.startswith(f"{which}/")}, abstract)
    arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
    request = ocp.args.PyTreeRestore(item=abstract, restore_args=arguments, partial_restore=True)
    tree = _arrays(ocp.PyTreeCheckpointHandler, place, request)
    if saved and (changes := _changes(saved, tree)):
        raise Damage(changes)
    return tree[which]


def reason(error: BaseException) -> str:
    """Return type and first line of an error, shortened: messages of Orbax and TensorStore can fill pages."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}".rstrip(".: ")


def _damage(error: BaseException) -> str:
    """Describe an error of reading in a few words, with the leaf that TensorStore names."""
    if "TensorStore details" in str(error) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON, {error}"
    code, leaf = re.match(r"([A-Z_]+): ", str(error)), re.search(r'(?:reading|at) "([\w./-]+)/[\w.]+"', str(error))
    if not code or code[1] not in _CODES:
        return reason(error)
    return "files are missing, cut short or changed" + (f", of {leaf[1]}" if leaf else "")


def _changes(saved: dict[str, Any], tree: Any) -> str:
    """Describe the leaves that differ from what was saved; '' if there are none."""
    wrong = checksums.changed(saved, tree)
    more = f" and of {len(wrong) - 1} more leaves" if len(wrong) > 1 else ""
    return f"the values of {wrong[0]}{more} differ from what was saved" if wrong else ""


def _agree(how: str) -> None:
    """Raise Damage on all processes if any process has detected damage."""
    if np.any(multihost_utils.process_allgather(np.int32(bool(how)))):
        raise Damage(how or "another process could not read it")


def _record(place: epath.Path) -> dict[str, Any] | None:
    """Return the record of checksums of a checkpoint; None if it was saved without one."""
    if not place.is_dir() or not any(place.iterdir()):
        raise Damage("it is empty")
    for item in ("state", "data"):
        if not (place / item).is_dir():
            raise Damage(f"its {item} is missing")
    if (place / "checksum").is_dir():
        try:
            return checksums.check_record(_item(place, "checksum"))
        except ValueError as error:
            raise Damage(str(error)) from error
    if "checksum" in _items(place):
        raise Damage("its checksum is missing")
    return None


def _items(place: epath.Path) -> dict[str, Any]:
    """Return the items that a checkpoint was saved with, from Orbax's metadata."""
    try:
        return dict(json.loads((place / "_CHECKPOINT_METADATA").read_text())["item_handlers"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise trouble(place, "its list of items", error) from error


def _item(place: epath.Path, name: str) -> Any:
    """Read a JSON item."""
    try:
        return ocp.JsonCheckpointHandler().restore(place / name)
    except (OSError, ValueError) as error:
        raise trouble(place, f"its {name}", error) from error


def _check_structure(place: epath.Path, described: dict[str, Any], like: Any) -> None:
    """Raise UserError if the leaves of a checkpoint differ from `like` in name, dtype or shape."""
    wrong = checksums.mismatches(described, like)
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(
            f"the checkpoint {place}{_written_by(place)} belongs to another model or version ({wrong[0]}{more}); use "
            "another --workdir"
        )


def _written_by(place: epath.Path) -> str:
    """Name the version that created the working directory of a checkpoint; '' if it is not known."""
    try:
        version = json.loads((place.parent.parent / "config.json").read_text())["versions"]["vdm_jax"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" of a run of vdm_jax {version}"


def _described(place: epath.Path) -> dict[str, list[Any]]:
    """Return {path: [dtype, shape]} from Orbax's metadata, for a checkpoint without checksums."""
    try:
        tree = ocp.StandardCheckpointHandler().metadata(place / "state").tree
    except Exception as error:  # Orbax raises bare Exceptions, KeyError and ValueError alike
        raise trouble(place, "its state", error) from error
    return {path: checksums.describe(leaf) for path, leaf in checksums.leaves(tree).items() if hasattr(leaf, "dtype")}


def _position(place: epath.Path, saved: dict[str, Any] | None) -> Any:
    """Return the saved position of the data iterator."""
    if saved:
        position = _item(place, "data")
        if saved["data"] != checksums.crc(position):
            raise Damage("the data position differs from what was saved")
        return position
    try:
        # Grain's handler wrote one file per process, with equal contents.
        return json.loads(min((place / "data").glob("process_*.json")).read_text())
    except (OSError, ValueError) as error:
        raise trouble(place, "its data", error) from error


def _arrays(handler: Any, place: epath.Path, arguments: Any) -> Any:
    """Restore the arrays of a checkpoint without the barriers of Orbax's manager: one process may fail alone."""
    silence_orbax()
    try:
        return handler().restore(place / "state", args=arguments)
    except Exception as error:
        raise trouble(place, "its state", error) from error
