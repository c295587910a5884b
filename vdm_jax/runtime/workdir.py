"""A working directory: which config it belongs to, and what it holds."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import sys
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from vdm_jax.config import differences
from vdm_jax.data import difference
from vdm_jax.errors import UserError

PACKAGES = ("vdm_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def exists(path: epath.Path) -> bool:
    """Whether there is anything; UserError for a bucket that no installed library can read."""
    try:
        return path.exists()
    except ImportError as error:
        raise UserError(f"{path} cannot be reached ({error}); install that, or copy it to this disk") from None


def saved_config(workdir: epath.Path) -> dict[str, Any] | None:
    """The config a working directory was made with, or None if it is new."""
    record = _saved(workdir)
    return record["config"] if record else None


def _saved(workdir: epath.Path) -> dict[str, Any] | None:
    """What `claim` wrote, or None."""
    path = workdir / "config.json"
    if not exists(path):
        return None
    try:
        record = json.loads(path.read_text())
        if not isinstance(record["config"], dict) or not isinstance(record.get("data", {}), dict):
            raise TypeError("the config is no object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a config of vdm_jax; restore it or use another --workdir") from error
    saved: dict[str, Any] = record
    return saved


def check_same(workdir: epath.Path, config: ConfigDict) -> None:
    """UserError if the directory belongs to another config or cannot be one; nothing is written."""
    _check_usable(workdir)
    saved = saved_config(workdir)
    if saved is None:
        folder = workdir / "checkpoints"
        if folder.is_dir() and any(child.name.isdigit() for child in folder.iterdir()):
            raise UserError(f"{workdir} holds checkpoints but no config.json to say whose; use another --workdir")
        for name in ("metrics.jsonl", "eval.json"):
            if exists(workdir / name):
                raise UserError(f"{workdir} holds {name} but no config.json to say whose; use another --workdir")
        return
    changed = differences(saved, config)
    if changed:
        raise UserError(
            f"{workdir} belongs to another config ({'; '.join(changed)}); use a new --workdir, or set these fields back"
        )


def check_resume(workdir: epath.Path, config: ConfigDict, data: dict[str, Any]) -> None:
    """UserError if training here would go on with other data, or at another learning rate, than it began with.

    data: `Dataset.identity`; a directory of an earlier version, which has no record of it, is accepted.
    """
    record = _saved(workdir)
    if record is None:
        return
    before = record.get("data") or data
    if changed := difference(before, data):
        was, now = (f"{d.get('name')} ({d.get('version')}, {d.get('examples')} examples)" for d in (before, data))
        raise UserError(
            f"{workdir} was trained on {was} and the data is now {now}: {changed}; put that data back (bad training "
            "images may stay: others replace them, see config.data.max_undecodable) or use a new --workdir, from these "
            f"weights with --weights={workdir}"
        )
    steps = record["config"].get("training", {}).get("num_steps", config.training.num_steps)
    if config.optimizer.decay != "constant" and steps != config.training.num_steps:
        raise UserError(
            f"config.training.num_steps: {steps} → {config.training.num_steps} would make the learning rate jump: "
            f"config.optimizer.decay={config.optimizer.decay!r} takes it down over num_steps; set it back, or go on "
            f"from these weights in a new --workdir with --weights={workdir}"
        )


def _check_usable(workdir: epath.Path) -> None:
    """UserError if a directory on this disk is none, or cannot be written or made."""
    if "://" in str(workdir):
        return
    place = workdir
    while not place.exists() and place.parent != place:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{place} is a file, so {workdir} cannot be a working directory; use another --workdir")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{place} cannot be written; use another --workdir or change its permissions")


def claim(workdir: epath.Path, config: ConfigDict, data: dict[str, Any] | None = None) -> None:
    """Make the directory and write config.json: the resolved config, the command, the versions, the data.

    data: `Dataset.identity` of what is trained on; None leaves what is recorded. Only process 0 writes.
    """
    if jax.process_index() != 0:
        return
    data = data or (_saved(workdir) or {}).get("data")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the working directory {workdir} cannot be made ({error.strerror}); use another") from error
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    record = {"config": config.to_dict(), "command": shlex.join(sys.argv), "versions": versions}
    if data:
        record["data"] = data
    write_json(workdir / "config.json", record)


def write_json(path: epath.Path, value: Any) -> None:
    """Write in one replacement, so that a reader never sees half a file."""
    scratch = path.parent / (path.name + ".tmp")
    scratch.write_text(json.dumps(value, indent=2) + "\n")
    scratch.replace(path)
