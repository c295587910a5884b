"""What a train step costs to compile and to run, as ratios measured in one process.

    python -m experiments.benchmarks --mini --seeds=1

Each ratio is the median over pairs of steps timed in turn after a warm-up, so that a machine whose
speed drifts gives the same answer; absolute times are this machine's and mean little elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import AxisType, Mesh
from matplotlib.figure import Figure

from experiments import common
from vdm_jax import methods
from vdm_jax.presets import vdm_images
from vdm_jax.training import devices
from vdm_jax.training.optimizer import optimizer
from vdm_jax.training.state import init_state
from vdm_jax.training.step import make_train_step, metric_names

SIZES = {"mini": (64, 4, 16), "paper": (128, 32, 128)}
# name → (changes of the first, changes of the second): the ratio is first / second
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "scanned / unrolled": ({}, {"unroll": 10**6}),
    "all devices / one device": ({}, {"devices": 1}),
    "remat / stored": ({"remat": True}, {}),
    "bfloat16 / float32": ({"dtype": "bfloat16"}, {}),
}
COMPILE = "compile, depth 32 / depth 4"


def lowered(width: int, depth: int, batch: int, **changes: Any) -> tuple[Any, Callable[[], Any], Any]:
    """(lowered train step, initial state, batch) of a CIFAR-10 VDM."""
    config = vdm_images("cifar10", 32, width=width, depth=depth)
    config.data.batch_size = batch
    count = changes.pop("devices", jax.device_count())
    for name, value in changes.items():
        config.model[name] = value
    method = methods.build(config)
    mesh = Mesh(np.asarray(jax.devices()[:count]), ("data",), axis_types=(AxisType.Auto,))
    optimizers = {phase.name: optimizer(config) for phase in method.phases}
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
    rows = devices.put_batch(mesh, {"image": images, "conditioning": np.zeros(batch, np.float32)})
    names = metric_names(method, optimizers, rows, batch)
    whole, parts = devices.replicated(mesh), devices.split(mesh)
    init = jax.jit(lambda: init_state(method, optimizers, names, 1), out_shardings=whole)
    step = make_train_step(method, optimizers, seed=1, total=batch, ema_decay=0.9999, log_every=100)
    wrapped = jax.jit(step, in_shardings=(whole, parts), out_shardings=whole, donate_argnums=0)
    return wrapped.lower(jax.eval_shape(init), rows), init, rows


def compile_seconds(width: int, depth: int, batch: int) -> float:
    """CPU seconds of this process for the compilation alone."""
    step = lowered(width, depth, batch)[0]
    before = time.process_time()
    step.compile()
    return time.process_time() - before


def pair_seconds(size: tuple[int, int, int], first: dict[str, Any], second: dict[str, Any], repeats: int) -> np.ndarray:
    """Seconds of a step, [repeats, 2], timed in turn after two warm-up steps each."""
    runs = []
    for changes in (first, second):
        step, init, rows = lowered(*size, **changes)
        runs.append([step.compile(), init(), rows])
    seconds = np.zeros((repeats + 2, 2))
    for k in range(repeats + 2):
        for which, run in enumerate(runs):
            step, state, rows = run
            before = time.perf_counter()
            run[1], loss = step(state, rows)
            jax.block_until_ready(loss)
            seconds[k, which] = time.perf_counter() - before
    return seconds[2:]


def median(values: np.ndarray) -> common.Measured:
    """Median with half the interquartile range."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return common.Measured(float(middle), float(high - low) / 2, len(values))


def measure(row: common.Row, seed: int, workdir: epath.Path) -> common.Outcome:
    size = tuple(row.config["size"])
    if row.name == COMPILE:
        width, _, batch = size
        shallow, deep = (compile_seconds(width, depth, batch) for depth in (4, 32))
        names = {"first_seconds": deep, "second_seconds": shallow, "ratio": deep / shallow}
        return common.Outcome({k: common.Measured(v) for k, v in names.items()})
    seconds = pair_seconds(size, *PAIRS[row.name], repeats=row.config["repeats"])
    return common.Outcome(
        {
            "first_seconds": median(seconds[:, 0]),
            "second_seconds": median(seconds[:, 1]),
            "ratio": median(seconds[:, 0] / seconds[:, 1]),
        }
    )


def rows(scale: str) -> list[common.Row]:
    width, depth, batch = SIZES[scale]
    compiled = common.Row(COMPILE, {"size": (128, depth, 128)})
    timed = {"size": (width, depth, batch), "repeats": 10}
    return [compiled, *(common.Row(name, timed) for name in PAIRS)]


def plot(results: common.Results) -> Figure:
    figure = Figure((7, 2.6))
    axes = figure.subplots()
    entries = results["rows"]
    ratios = [entry["measured"]["ratio"] for entry in entries]
    axes.barh(
        [entry["name"] for entry in entries],
        [r["mean"] for r in ratios],
        xerr=[r["standard_error"] or 0 for r in ratios],
        color="C0",
    )
    axes.axvline(1, color="grey", lw=1)
    axes.invert_yaxis()
    axes.set(xlabel="ratio of times (bars: half the interquartile range)")
    return figure


EXPERIMENT = common.Experiment(
    name="benchmarks",
    title="Compile time and speed of the train step",
    notes="CIFAR-10 VDM with AdamW and EMA; (width, depth, batch) are in the JSON. `first` and `second` are the two "
    "sides of the ratio; ± is half the interquartile range over pairs. Compile times are CPU seconds "
    "at width 128, batch 128.",
    data=lambda scale: "random bytes, 32×32×3",
    rows=rows,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT, batch_size=SIZES["mini"][2])
