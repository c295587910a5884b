"""Variants of the train step of a CIFAR-10 VDM, for timing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.common import Measured
from vdm_jax import methods
from vdm_jax.core.method import Method
from vdm_jax.presets.vdm import vdm_images
from vdm_jax.runtime import devices
from vdm_jax.training import program

Size = tuple[int, int, int]


class Model(NamedTuple):
    """A config, its program and a batch on some devices."""

    config: ConfigDict
    method: Method
    mesh: Mesh
    program: program.Program
    batch: dict[str, Any]


def cores() -> int:
    """Return the number of useful devices: all of them, or as many virtual ones as there are cores."""
    return jax.device_count() if jax.default_backend() != "cpu" else devices.usable_cores()


def build(size: Size, changes: Mapping[str, Any]) -> Model:
    """Build the model of a (width, depth, batch) with changed config fields; 'devices' is their number."""
    width, depth, batch = size
    config = vdm_images("cifar10", 32, width=width, depth=depth)
    config.data.batch_size = batch
    fields = {name: value for name, value in changes.items() if name != "devices"}
    config.update_from_flattened_dict(fields)
    count = changes.get("devices", devices.largest_divisor(batch, cores()))
    mesh = devices.make_mesh(batch, config.training.fsdp, devices.in_order()[:count])
    method = methods.build(config)
    rng = np.random.default_rng(0)
    images: dict[str, Any] = {
        "x": rng.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8),
        "cond": {"augmented": np.zeros(batch, np.float32)},
        "replaced": np.zeros(batch, np.float32),
    }
    return Model(config, method, mesh, program.functions(config, method, mesh), images)


def compiled(model: Model) -> Any:
    """Return the compiled call of one step."""
    made = model.program
    return made.step.lower(made.abstract, (program.abstract_batch(model.config, model.method),), None).compile()  # type: ignore[attr-defined]


class Stepper:
    """A training run without the loop: each call runs `steps_per_call` steps on the same images."""

    def __init__(self, size: Size, changes: Mapping[str, Any]):
        self.model = build(size, changes)
        made = self.model.program
        self.steps = self.model.config.training.steps_per_call
        self.state = made.enter(made.init())
        self.batches = tuple(made.put(self.model.batch) for _ in range(self.steps))

    def __call__(self) -> float:
        """Run one call and return seconds per step."""
        before = time.perf_counter()
        self.state, report = self.model.program.step(self.state, self.batches, None)
        jax.block_until_ready(report)
        return (time.perf_counter() - before) / self.steps


def in_turn(runs: list[Callable[[], float]], repeats: int, warm_up: int = 2) -> np.ndarray:
    """Alternate between runs and return their results, [repeats, runs]."""
    values = np.array([[run() for run in runs] for _ in range(repeats + warm_up)])
    return values[warm_up:]


def median(values: np.ndarray) -> Measured:
    """Return the median with half the interquartile range as its error."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return Measured(float(middle), float(high - low) / 2, len(values))
