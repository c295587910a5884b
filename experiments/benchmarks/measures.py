"""One function per kind of row: (size, settings of the row, a scratch directory) → measurements."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments.benchmarks.programs import Size, Stepper, build, compiled, in_turn, median
from experiments.common import Measured
from vdm_jax import data
from vdm_jax.data.pipeline import images_per_second
from vdm_jax.keys import example_keys
from vdm_jax.runtime import checkpoints, devices

Found = Mapping[str, Measured]


def pair(size: Size, row: Mapping[str, Any], scratch: epath.Path) -> Found:
    """Measure seconds of a train step for two alternatives, and their ratio."""
    steppers: list[Callable[[], float]] = [Stepper(size, row["first"]), Stepper(size, row["second"])]
    seconds = in_turn(steppers, row["repeats"])
    return {
        "first_seconds": median(seconds[:, 0]),
        "second_seconds": median(seconds[:, 1]),
        "ratio": median(seconds[:, 0] / seconds[:, 1]),
    }


def compile_time(size: Size, row: Mapping[str, Any], scratch: epath.Path) -> Found:
    """Measure CPU seconds of this process for compilation only, at two depths."""

    def cpu_seconds(depth: int) -> float:
        model = build((size[0], depth, size[2]), {})
        lowered = model.program.step.lower(model.program.abstract, (_described(model.batch),), None)  # type: ignore[attr-defined]
        before = time.process_time()
        lowered.compile()
        return time.process_time() - before

    deep, shallow = cpu_seconds(row["first"]), cpu_seconds(row["second"])
    return {
        "first_cpu_seconds": Measured(deep),
        "second_cpu_seconds": Measured(shallow),
        "cpu_ratio": Measured(deep / shallow),
    }


def _described(batch: Mapping[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    return {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}


def memory(size: Size, row: Mapping[str, Any], scratch: epath.Path) -> Found:
    """Return MiB of temporaries per device for a step, as reported by the compiler."""
    first, second = (
        compiled(build(size, row[which])).memory_analysis().temp_size_in_bytes / 2**20 for which in ("first", "second")
    )
    return {
        "first_mib": Measured(first),
        "second_mib": Measured(second),
        "mib_ratio": Measured(first / second),
    }


def sampler(size: Size, row: Mapping[str, Any], scratch: epath.Path) -> Found:
    """Measure seconds of a sampler step on a batch relative to a train step on as many images."""
    train = Stepper(size, {"sampling.sampler": row["sampler"]})
    model, steps, batch = train.model, row["num_steps"], size[2]
    layout = devices.split(model.mesh)
    assert model.method.sample is not None
    run = jax.jit(partial(model.method.sample, num_steps=steps), in_shardings=(None, layout, layout))
    keys = jax.device_put(example_keys(jax.random.key(0), jnp.arange(batch)), layout)
    cond = jax.device_put({"augmented": jnp.zeros(batch)}, layout)
    params = jax.tree.map(jnp.copy, train.state.params)  # a train step consumes its state

    def draw() -> float:
        before = time.perf_counter()
        jax.block_until_ready(run(params, keys, cond))
        return (time.perf_counter() - before) / steps

    seconds = in_turn([draw, train], row["repeats"])
    return {
        "sampler_step_seconds": median(seconds[:, 0]),
        "train_step_seconds": median(seconds[:, 1]),
        "sampler_ratio": median(seconds[:, 0] / seconds[:, 1]),
    }


def pipeline(size: Size, row: Mapping[str, Any], scratch: epath.Path) -> Found:
    """Measure images/s of the input pipeline, and of the train step of that size."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)
    path = scratch / "images"
    if row["source"] == "npz":
        path = scratch / "images.npz"
        with path.open("wb") as file:
            np.savez(file, x_train=images, x_test=images[:10])
    else:
        _as_pngs(path, images[:500])
    dataset = data.load(row["source"], "train", path=str(path), shape=(32, 32, 3), vocabulary=256)
    made = lambda: data.train_iterator(dataset, seed=1, batch_size=size[2], augment=tuple(row["augment"]))
    found = np.array([images_per_second(made(), row["batches"]) for _ in range(row["repeats"])])
    step = Stepper(size, {})
    seconds = in_turn([step], row["repeats"])[:, 0]
    return {
        "pipeline_images_per_second": median(found),
        "step_images_per_second": median(size[2] / seconds),
        "pipeline_ratio": Measured(float(np.median(found) * np.median(seconds) / size[2])),
    }


def _as_pngs(folder: epath.Path, images: np.ndarray) -> None:
    from PIL import Image

    for split, part in (("train", images), ("test", images[:10])):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(part):
            with (folder / split / f"{number:05d}.png").open("wb") as file:
                Image.fromarray(image).save(file, "PNG")


def checkpoint_stall(size: Size, row: Mapping[str, Any], scratch: epath.Path) -> Found:
    """Measure the time that a checkpoint adds to steps, and its share of the default checkpoint interval."""
    stepper = Stepper(size, {})
    interval, steps = stepper.model.config.training.checkpoint_every, row["steps"]
    iterator = data.train_iterator(data.load("digits", "train"), seed=1, batch_size=16)
    blocked, extra, plain = [], [], []
    folder = scratch / f"stall-{time.monotonic_ns()}"
    with contextlib.closing(checkpoints.manager(folder, keep=1)) as saver:
        for _ in range(row["repeats"]):
            plain.append(sum(stepper() for _ in range(steps)))
            before = time.perf_counter()
            checkpoints.save(saver, stepper.state, iterator)
            blocked.append(time.perf_counter() - before)
            extra.append(blocked[-1] + sum(stepper() for _ in range(steps)) - plain[-1])
            checkpoints.finish(saver)
            gc.collect()
    share = np.asarray(extra) / (np.median(plain) / steps * interval)
    return {
        "blocked_seconds": median(np.asarray(blocked)),
        "extra_seconds": median(np.asarray(extra)),
        "share_of_interval": median(share),
    }


MEASURES: dict[str, Callable[[Size, Mapping[str, Any], epath.Path], Found]] = {
    "pair": pair,
    "compile": compile_time,
    "memory": memory,
    "sampler": sampler,
    "pipeline": pipeline,
    "stall": checkpoint_stall,
}
