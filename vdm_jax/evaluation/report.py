"""What `--mode=eval` and `--mode=sample` do, and what training does at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import data
from vdm_jax.errors import UserError
from vdm_jax.evaluation import likelihood, pictures
from vdm_jax.evaluation.likelihood import sentence
from vdm_jax.methods.base import Method, example_keys
from vdm_jax.training.devices import replicated, round_up, split
from vdm_jax.training.workdir import write_json

__all__ = ["check_data", "evaluate", "finish", "sample", "sample_grid", "scalars", "sentence"]

STRIP_ROWS, STRIP_STATES = 6, 9


def _dataset(config: ConfigDict) -> data.Dataset:
    return data.load(
        config.data.name,
        config.evaluation.split,
        path=config.data.path,
        shape=tuple(config.data.shape),
        vocabulary=config.data.vocabulary or None,
    )


def check_data(config: ConfigDict) -> None:
    """The evaluation split is there and is what the config says; before anything is compiled."""
    data.check(_dataset(config), tuple(config.data.shape), config.data.vocabulary or None)


def measure(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, examples: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(terms per example [passes, N], what they were measured on)."""
    section, dataset = config.evaluation, _dataset(config)
    count = min(examples or section.examples or dataset.num_examples, dataset.num_examples)
    size = round_up(min(section.batch_size, count), mesh)
    batches = partial(_first_batches, dataset, size, count)
    values = likelihood.per_example(method, params, batches, mesh, seed=section.seed, passes=section.passes)
    about = {
        "estimator": likelihood.estimator_name(section.estimator, section.num_timesteps),
        "dataset": f"{dataset.name} ({dataset.version})",
        "split": dataset.split,
        "seed": section.seed,
    }
    return values, about


def _first_batches(dataset: data.Dataset, size: int, count: int) -> Iterable[dict[str, np.ndarray]]:
    """The first `count` examples of a split."""
    for batch in data.eval_batches(dataset, batch_size=size):
        if batch["index"][0] >= count:
            return
        batch["mask"] = batch["mask"] * (batch["index"] < count)
        yield batch


def evaluate(
    config: ConfigDict,
    method: Method,
    params: Any,
    mesh: Mesh,
    step: int,
    weights: str,
    examples: int = 0,
) -> dict[str, Any]:
    """The content of eval.json."""
    values, about = measure(config, method, params, mesh, examples)
    return {**likelihood.summarise(values), **about, "step": step, "weights": weights}


def scalars(result: dict[str, Any]) -> dict[str, float]:
    """The numbers of a result, for the metrics."""
    return {k: float(v) for k, v in result.items() if isinstance(v, int | float) and k not in ("step", "seed")}


@lru_cache(maxsize=4)
def _sampler(draw: Callable[..., Any], num_steps: int, trajectory: bool, mesh: Mesh) -> Callable[..., Any]:
    """Compiled once for all the grids of a run."""
    layout = split(mesh)
    run = partial(draw, num_steps=num_steps, trajectory=trajectory)
    return jax.jit(run, in_shardings=(replicated(mesh), layout, layout))


def sample(config: ConfigDict, method: Method, params: Any, mesh: Mesh, count: int, trajectory: bool = False) -> Any:
    """`count` samples [count, …] (and latents [num_steps, count, …]): image k depends on k and the seed."""
    section = config.sampling
    size = round_up(min(section.batch_size, count), mesh)
    layout = split(mesh)
    run = _sampler(method.sample, section.num_steps, trajectory, mesh)
    parts = []
    for first in range(0, count, size):
        keys = jax.device_put(example_keys(jax.random.key(section.seed), first + jnp.arange(size)), layout)
        parts.append(jax.device_get(run(params, keys, jax.device_put(jnp.zeros(size), layout))))
    if trajectory:
        images, paths = (list(column) for column in zip(*parts, strict=True))
        return np.concatenate(images)[:count], np.concatenate(paths, axis=1)[:, :count]
    return np.concatenate(parts)[:count]


def sample_grid(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, directory: epath.Path, step: int
) -> np.ndarray:
    """Samples as samples/<step>.png."""
    (directory / "samples").mkdir(parents=True, exist_ok=True)
    images = sample(config, method, params, mesh, config.sampling.num_images)
    pictures.save_samples(directory / "samples" / f"{step}.png", images, config.data.vocabulary or None)
    return images


def write_samples(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, directory: epath.Path, step: int
) -> list[epath.Path]:
    """Grid, arrays (.npz) and noise-to-image strip; returns what was written."""
    folder, vocabulary = directory / "samples", config.data.vocabulary or None
    images = sample_grid(config, method, params, mesh, directory, step)
    arrays, strip = folder / f"{step}.npz", folder / f"{step}_strip.png"
    with arrays.open("wb") as file:
        np.savez_compressed(file, samples=images)
    rows = STRIP_ROWS if vocabulary else min(500, config.sampling.num_images)
    final, path = sample(config, method, params, mesh, rows, trajectory=True)
    chosen = np.linspace(0, len(path) - 1, STRIP_STATES + 1).astype(int)[:-1]
    pictures.save_strip(strip, path[chosen], final, vocabulary)
    return [folder / f"{step}.png", arrays, strip]


def write_plots(directory: epath.Path, schedule: Any, values: dict[str, np.ndarray]) -> list[epath.Path]:
    """plots/schedule.png and, where the estimator has times, plots/loss_by_t.png."""
    folder = directory / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "schedule.png"]
    pictures.save_schedule(written[0], schedule)
    if "t" in values:
        written.append(folder / "loss_by_t.png")
        pictures.save_loss_by_t(written[1], values)
    return written


def finish(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, directory: epath.Path, step: int
) -> dict[str, Any]:
    """Evaluate, plot and sample into a working directory, say so, and return eval.json's content."""
    result = write_evaluation(config, method, params, mesh, directory, step)
    began = time.monotonic()
    written = write_samples(config, method, params, mesh, directory, step)
    section = config.sampling
    print(
        f"{section.num_images} samples ({section.sampler}, {section.num_steps} steps) "
        f"in {time.monotonic() - began:.0f} s: {', '.join(map(str, written))}"
    )
    return result


def write_evaluation(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, directory: epath.Path, step: int
) -> dict[str, Any]:
    """eval.json and the plots."""
    directory.mkdir(parents=True, exist_ok=True)
    values, about = measure(config, method, params, mesh)
    result = {**likelihood.summarise(values), **about, "step": step, "weights": config.evaluation.weights}
    bad = int(np.sum(~np.isfinite(values["total"]).all(0)))
    if bad:
        raise UserError(
            f"bits/dim is NaN or infinite for {bad} of {result['examples']} examples ({result['estimator']}, "
            f"{result['weights']} weights of step {step}); no eval.json is written"
        )
    write_json(directory / "eval.json", result)
    schedule = jax.tree.map(np.asarray, method.schedule(params))
    plots = write_plots(directory, schedule, values)
    print(sentence(result))
    print(f"written: {', '.join(map(str, [directory / 'eval.json', *plots]))}", flush=True)
    return result
