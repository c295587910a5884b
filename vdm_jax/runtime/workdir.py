"""Working directories: their config, the record of their data, and checks before a run uses them."""

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

from vdm_jax.config import brief, differences
from vdm_jax.data import difference
from vdm_jax.errors import UserError
from vdm_jax.runtime import tokenizer

PACKAGES = ("vdm_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def exists(path: epath.Path) -> bool:
    """Return whether a path exists; raise UserError for a bucket that no installed library can read."""
    try:
        return path.exists()
    except ImportError as error:
        raise UserError(f"{path} cannot be reached ({error}); install that, or copy it to this disk") from None


def saved_config(workdir: epath.Path) -> dict[str, Any] | None:
    """Return the config of a working directory, or None if it has none.

    Raises:
      UserError: config.json cannot be read.
    """
    record = _saved(workdir)
    return record["config"] if record else None


def _saved(workdir: epath.Path) -> dict[str, Any] | None:
    """Return the content of config.json, or None if it does not exist."""
    path = workdir / "config.json"
    if not exists(path):
        return None
    try:
        record = json.loads(path.read_text())
        if not isinstance(record["config"], dict) or not isinstance(record.get("data", {}), dict):
            raise TypeError("the config is not an object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a config of vdm_jax; restore it or use another --workdir") from error
    saved: dict[str, Any] = record
    return saved


def check_same(workdir: epath.Path, config: ConfigDict) -> None:
    """Raise UserError if a directory belongs to another config or cannot be used; nothing is written."""
    _check_usable(workdir)
    saved = saved_config(workdir)
    if saved is None:
        folder = workdir / "checkpoints"
        if folder.is_dir() and any(child.name.isdigit() for child in folder.iterdir()):
            raise UserError(f"{workdir} contains checkpoints but no config.json; restore it or use another --workdir")
        for name in ("metrics.jsonl", "eval.json"):
            if exists(workdir / name):
                raise UserError(f"{workdir} contains {name} but no config.json; restore it or use another --workdir")
        return
    changed = differences(saved, config)
    if changed and _has_results(workdir):
        raise UserError(
            f"{workdir} belongs to another config ({brief(changed)}); use a new --workdir, or set these fields back"
        )


def _has_results(workdir: epath.Path) -> bool:
    """Return whether a directory has checkpoints, evaluations or samples, which belong to its config."""
    children = lambda name: list((workdir / name).iterdir()) if exists(workdir / name) else []
    saved = any(child.name.isdigit() for child in children("checkpoints"))  # not one that was being written
    return saved or exists(workdir / "eval.json") or bool(children("samples") or children("evals"))


def check_resume(workdir: epath.Path, config: ConfigDict, data: dict[str, Any]) -> None:
    """Raise UserError if resuming would change the data or make the learning rate jump.

    data: `Dataset.identity`; a directory of an early version, which has no record of its data, is accepted.
    """
    record = _saved(workdir)
    if record is None or not _has_results(workdir):
        return
    before = record.get("data") or data
    if changed := difference(before, data):
        was, now = (f"{d.get('name')} ({d.get('version')}, {d.get('examples')} examples)" for d in (before, data))
        raise UserError(
            f"{workdir} was trained on {was} and the data is now {now}: {changed}; restore the old data (undecodable "
            "training images may stay, see config.data.max_undecodable) or use a new --workdir, and start from these "
            f"weights with --weights={workdir}"
        )
    steps = record["config"].get("training", {}).get("num_steps", config.training.num_steps)
    if config.optimizer.decay != "constant" and steps != config.training.num_steps:
        raise UserError(
            f"config.training.num_steps: {steps} → {config.training.num_steps} would make the learning rate jump: "
            f"config.optimizer.decay={config.optimizer.decay!r} decays it over num_steps; set it back, or continue "
            f"from these weights in a new --workdir with --weights={workdir}"
        )


def _check_usable(workdir: epath.Path) -> None:
    """Raise UserError if a local path is not a directory, or cannot be written or created."""
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
    """Create the directory and write config.json: the resolved config, the command, the versions and the data.

    Only process 0 writes.

    Args:
      workdir: the working directory.
      config: the config.
      data: `Dataset.identity` of the training data; None keeps the existing record.

    Raises:
      UserError: the directory cannot be created.
    """
    if jax.process_index() != 0:
        return
    data = data or (_saved(workdir) or {}).get("data")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the working directory {workdir} cannot be created ({error.strerror}); use another") from error
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    saved = tokenizer.unlocated(config, workdir)
    record = {"config": saved.to_dict(), "command": command(), "versions": versions}
    if data:
        record["data"] = data
    write_json(workdir / "config.json", record)


def version(package: str) -> str:
    """Return the version of a package, or 'not installed'."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def command() -> str:
    """Return the command line of this process."""
    return shlex.join(sys.argv)


def write_json(path: epath.Path, value: Any) -> None:
    """Write JSON atomically, so that a reader never sees an incomplete file."""
    scratch = path.parent / (path.name + ".tmp")
    scratch.write_text(json.dumps(value, indent=2) + "\n")
    scratch.replace(path)
