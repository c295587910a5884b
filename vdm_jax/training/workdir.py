"""A working directory: which config it belongs to, and what it holds."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import sys
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from vdm_jax.config import differences
from vdm_jax.errors import UserError

PACKAGES = ("vdm_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def saved_config(workdir: epath.Path) -> dict[str, Any] | None:
    """The config a working directory was made with, or None if it is new."""
    path = workdir / "config.json"
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())["config"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a config of vdm_jax; use another --workdir") from error


def check_same(workdir: epath.Path, config: ConfigDict) -> None:
    """UserError if the directory belongs to another config; nothing is written."""
    saved = saved_config(workdir)
    if saved is None:
        return
    changed = differences(saved, config)
    if changed:
        raise UserError(
            f"{workdir} belongs to another config ({'; '.join(changed)}); use a new --workdir, or set these fields back"
        )


def claim(workdir: epath.Path, config: ConfigDict) -> None:
    """Make the directory and write config.json: the resolved config, the command, the versions."""
    workdir.mkdir(parents=True, exist_ok=True)
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    record = {"config": config.to_dict(), "command": shlex.join(sys.argv), "versions": versions}
    write_json(workdir / "config.json", record)


def write_json(path: epath.Path, value: Any) -> None:
    """Write in one replacement, so that a reader never sees half a file."""
    scratch = path.parent / (path.name + ".tmp")
    scratch.write_text(json.dumps(value, indent=2) + "\n")
    scratch.replace(path)
