"""Trained models of the experiments: one directory per config, trained once and shared by all scripts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import runpy
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import config as configs
from vdm_jax import data, methods, weights
from vdm_jax.core.method import Method
from vdm_jax.evaluation import report
from vdm_jax.runtime import checkpoints, devices
from vdm_jax.training.loop import train

FILES = {"mini": "experiments/vdm/mini.py", "paper": "configs/cifar10.py"}


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity, so that it can be a cache key
class Model:
    """A config, its method, its weights (averaged by default) and the device mesh."""

    config: ConfigDict
    method: Method
    params: Any
    mesh: Mesh


def load_config(file: str, overrides: Mapping[str, Any]) -> ConfigDict:
    """Load a config file of this repository, replace dotted fields and check it."""
    path = pathlib.Path(__file__).parent.parent / file
    return with_fields(runpy.run_path(str(path))["get_config"](), overrides)


def with_fields(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """Return a checked copy with dotted fields replaced."""
    config = configs.with_variant(config.copy_and_resolve_references(), "rows", {"rows": overrides})
    configs.check(config)
    return config


def identity(file: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a config in a row's JSON: the file, the overrides and all non-default fields."""
    defaults = dict(configs.flatten(configs.everything()))
    fields = decisive(load_config(file, overrides), ("evaluation.", "sampling."))
    return {
        "file": file,
        "overrides": dict(overrides),
        "fields": {name: value for name, value in fields.items() if value != defaults[name]},
    }


def decisive(config: ConfigDict, also: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the fields that determine a trained model, and those of the sections in `also`."""
    table = configs.field_table()
    fixed = lambda name: name == "training.num_steps" or not table[name].resume
    return {name: value for name, value in configs.flatten(config) if fixed(name) or name.startswith(also)}


def data_of(scale: str) -> str:
    """Describe the evaluation data of a scale, such as 'digits (version), test, 297 examples'."""
    return describe_data(load_config(FILES[scale], {}))


def describe_data(config: ConfigDict) -> str:
    """Describe the evaluation data, such as 'digits (version), test, 297 examples'."""
    dataset = data.load(config.data.name, config.evaluation.split, path=config.data.path)
    return f"{dataset.name} ({dataset.version}), {dataset.split}, {dataset.num_examples:,} examples"


def npz_file(path: epath.Path, arrays: Callable[[], Mapping[str, Any]]) -> str:
    """Return the path of an experiment's `.npz` data set, which is written if it does not exist."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            np.savez(stream, **arrays())
    return str(path)


def trained(config: ConfigDict, workdir: epath.Path, start: Callable[[], Model] | None = None) -> Model:
    """Train the model of a config in its own subdirectory of `workdir`, or load it if it is already trained.

    start: returns the model from whose weights training starts, such as the teacher of a student.
    """
    directory = directory_of(config, workdir)
    if config.training.num_steps not in checkpoints.steps(directory):
        initial = jax.device_get(start().params) if start else None
        frozen = dict.fromkeys(methods.build(config).frozen, initial)
        train(config, directory, initial, finish=False, frozen=frozen)
    method, mesh = methods.build(config), devices.make_mesh(config.data.batch_size)
    params, _ = weights.load(str(directory), config, method)
    return Model(config, method, jax.device_put(params, devices.replicated(mesh)), mesh)


def directory_of(config: ConfigDict, workdir: epath.Path) -> epath.Path:
    """Return the directory in which `trained` saves the model of a config."""
    defaults = dict(configs.flatten(configs.everything()))  # so that a new field does not change existing digests
    fields = {name: value for name, value in decisive(config).items() if value != defaults[name]}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
    return workdir / f"{config.data.name}-{digest}"


def with_schedule(model: Model, schedule: Mapping[str, Any], leaves: Any) -> Model:
    """Return the network with another schedule: fields of the `schedule` section and its leaves."""
    config = with_fields(model.config, {f"schedule.{name}": value for name, value in schedule.items()})
    params = jax.device_put({**model.params, "schedule": leaves}, devices.replicated(model.mesh))
    return Model(config, methods.build(config), params, model.mesh)


def likelihood(model: Model, **evaluation: Any) -> dict[str, np.ndarray]:
    """Return the terms per example, float64 [passes, N] in bits/dim; evaluation: fields of that section.

    Images, times and noise are keyed by (evaluation.seed, pass, position): calls with the same seed and number of
    passes share them.
    """
    config = with_fields(model.config, {f"evaluation.{name}": value for name, value in evaluation.items()})
    return report.measure(config, methods.build(config), model.params, model.mesh)[0]


def reference(row: Mapping[str, Any], seed: int, workdir: epath.Path) -> tuple[Model, dict[str, np.ndarray]]:
    """Return the trained model of a row and its continuous bound, cached for the next row with the same seed."""
    overrides = {k: v for k, v in row["overrides"].items() if k != "evaluation.num_timesteps"}
    return _reference(row["file"], tuple(overrides.items()), seed, workdir)


@lru_cache(maxsize=1)
def _reference(
    file: str, overrides: tuple[tuple[str, Any], ...], seed: int, workdir: epath.Path
) -> tuple[Model, dict[str, np.ndarray]]:
    model = trained(load_config(file, {**dict(overrides), "training.seed": seed}), workdir)
    return model, likelihood(model, seed=seed)
