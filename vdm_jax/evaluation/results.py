"""Files of results: each evaluation in evals/, the latest one also as eval.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from vdm_jax.evaluation import names
from vdm_jax.runtime.workdir import write_json

LATEST, FOLDER, EARLIER = "eval.json", "evals", "earlier.json"


def write(directory: epath.Path, name: str, result: Mapping[str, Any]) -> list[epath.Path]:
    """Write a result with its record 'made_by' as evals/<name>.json and as eval.json; return the paths.

    A result of the same settings and data is replaced, one of others is not: the new one then gets a number. An
    eval.json of an early version, which had no evals/, is kept as evals/earlier.json.
    """
    folder, latest = directory / FOLDER, directory / LATEST
    if not folder.exists():
        folder.mkdir(parents=True)
        if latest.exists():
            (folder / EARLIER).write_text(latest.read_text())
    path = folder / f"{names.free(name, lambda taken: _settings(folder / f'{taken}.json'), _of(result))}.json"
    write_json(path, result)
    write_json(latest, result)
    return [latest, path]


def _of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that decides a result: its record, and the step and the data that it names."""
    parts = [result, *(value for value in result.values() if isinstance(value, Mapping))]
    data = [part["dataset"] for part in parts if "dataset" in part]
    return {**result.get("made_by", {}), "step": result.get("step"), "data": data}


def _settings(path: epath.Path) -> dict[str, Any] | None:
    """Return what decided the result in a file, {} if the file does not say, or None if there is no such file."""
    if not path.exists():
        return None
    try:
        return _of(json.loads(path.read_text()))
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
