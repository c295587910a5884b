"""What `--mode=eval` and `--mode=sample` do, and what training does at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import data
from vdm_jax.errors import UserError
from vdm_jax.evaluation import likelihood, pictures, plots
from vdm_jax.evaluation.likelihood import sentence, words
from vdm_jax.evaluation.processes import agree, placed
from vdm_jax.methods import flows
from vdm_jax.methods.base import Method, example_keys
from vdm_jax.methods.conditioning import Guided, asked
from vdm_jax.training.devices import put_batch, replicated, round_up, under
from vdm_jax.training.workdir import write_json

__all__ = ["check_data", "evaluate", "finish", "sample", "sample_grid", "say", "scalars", "sentence"]

STRIP_ROWS, STRIP_POINTS, STRIP_STATES = 6, 500, 9
COLUMNS = 20  # as many classes stand beside each other in a grid


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
    shape, classes = tuple(config.data.shape), config.model.num_classes
    data.check(_dataset(config), shape, config.data.vocabulary or None, classes=classes, every=True)


def measure(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, examples: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(terms per example [passes, N], what they were measured on); equal on all processes."""
    section, dataset = config.evaluation, _dataset(config)
    count = min(examples or section.examples or dataset.num_examples, dataset.num_examples)
    size = round_up(min(section.batch_size, count), mesh)
    batches = partial(_batches, config, dataset, size, count)
    values = likelihood.per_example(method, params, batches, mesh, seed=section.seed, passes=section.passes)
    about = {
        "estimator": (method.measured and method.measured.estimator) or likelihood.estimator_name(config),
        "dataset": f"{dataset.name} ({dataset.version})",
        "split": dataset.split,
        "seed": section.seed,
    }
    if config.model.num_classes and method.measure is None:
        about["given"] = "the label"
    return values, about


def _batches(config: ConfigDict, dataset: data.Dataset, size: int, count: int) -> Iterable[dict[str, np.ndarray]]:
    """This process's rows of the first `count` examples; where one can't be decoded, all processes stop."""
    batches = data.eval_batches(
        dataset,
        batch_size=size,
        examples=count,
        labels=config.model.num_classes > 0,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=config.data.threads or None,
    )
    while True:
        batch, failure = None, None
        try:
            batch = next(batches, None)
        except UserError as error:
            failure = error
        agree(failure)
        if batch is None:
            return
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
    return _evaluated(config, method, params, mesh, step, weights, examples)[0]


def _evaluated(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, step: int, weights: str, examples: int = 0
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The content of eval.json, and the terms per example."""
    values, about = measure(config, method, params, mesh, examples)
    about |= {"step": step, "weights": weights}
    if method.measure is None:
        return {**likelihood.summarise(values), **about}, values
    name, *_ = headline = [method.measure.name, *method.measure.also]
    result = {"headline": headline, **likelihood.summarise(values, name), **about}
    return {**result, "by_level": likelihood.by_level(values, method.measure.by_level)}, values


def scalars(result: dict[str, Any]) -> dict[str, float]:
    """The numbers of a result, for the metrics."""
    return {k: float(v) for k, v in result.items() if isinstance(v, int | float) and k not in ("step", "seed")}


@lru_cache(maxsize=4)
def _sampler(draw: Callable[..., Any], seed: int, num_steps: int, keep: tuple[int, ...], mesh: Mesh) -> Any:
    """(params, batch of 'index', 'conditioning' and, with guidance, 'weight') → (samples, states), compiled once for
    all the grids of a run."""

    def run(params: Any, batch: dict[str, Array]) -> Any:
        keys = example_keys(jax.random.key(seed), batch["index"])
        told: Any = batch["conditioning"]
        if "weight" in batch:
            told = Guided(told, batch["weight"])
        return draw(params, keys, told, num_steps, keep)

    return jax.jit(under(mesh, run), out_shardings=replicated(mesh))


class Drawn(NamedTuple):
    """Samples [N, …], the latents [K, N, …] after the K steps to keep, and the evaluations of the network [N], where
    they are not the same for all."""

    images: np.ndarray
    states: np.ndarray
    evaluations: np.ndarray | None


def sample(
    config: ConfigDict,
    method: Method,
    params: Any,
    mesh: Mesh,
    count: int,
    keep: tuple[int, ...] = (),
    weight: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`count` samples [count, …], and the latents [K, count, …] after the K steps to keep.

    Image k depends on k, its label, the seed and the guidance weight w (the first of the config unless one is given);
    every process returns all of them.
    """
    drawn = draw(config, method, params, mesh, count, keep, weight)
    return drawn.images, drawn.states


def draw(
    config: ConfigDict,
    method: Method,
    params: Any,
    mesh: Mesh,
    count: int,
    keep: tuple[int, ...] = (),
    weight: float | None = None,
) -> Drawn:
    """`sample`, with what it took."""
    section = config.sampling
    assert method.sample is not None
    size = round_up(min(section.batch_size, count), mesh)
    run, params = _sampler(method.sample, section.seed, section.num_steps, keep, mesh), placed(params, mesh)
    share = size // jax.process_count()
    parts = []
    for first in range(0, count, size):
        index = first + jax.process_index() * share + np.arange(share, dtype=np.int32)
        told = {"index": index, "conditioning": asked(config, method.classes, index)}
        if any(config.sampling.guidance):  # one program for all weights, 0 among them
            told["weight"] = np.full(share, section.guidance[0] if weight is None else weight, np.float32)
        batch = put_batch(mesh, told)
        parts.append(jax.device_get(run(params, batch)))
    images, paths, *counts = zip(*parts, strict=True)
    evaluations = np.concatenate(counts[0])[:count] if counts else None
    flows.check_solved(config, *([] if evaluations is None else [evaluations]))
    return Drawn(np.concatenate(images)[:count], np.concatenate(paths, axis=1)[:, :count], evaluations)


def sample_grid(config: ConfigDict, method: Method, params: Any, mesh: Mesh, directory: epath.Path, step: int) -> Drawn:
    """Samples as samples/<step>.png, with the states of their strip.

    Labels in turn stand in columns. Of several guidance weights the first samples of each are a row; samples and
    states come one weight after the other.
    """
    section, weights = config.sampling, tuple(config.sampling.guidance)
    keep = tuple(np.unique(np.linspace(0, section.num_steps - 1, STRIP_STATES + 1).astype(int)[:-1]).tolist())
    parts = [draw(config, method, params, mesh, section.num_images, keep, weight) for weight in weights]
    images = np.concatenate([p.images for p in parts])
    if jax.process_index() == 0:
        (directory / "samples").mkdir(parents=True, exist_ok=True)
        path, vocabulary = directory / "samples" / f"{step}.png", config.data.vocabulary or None
        if vocabulary is None:
            pictures.save_points(path, {_titled(weight): p.images for weight, p in zip(weights, parts, strict=True)})
        else:
            columns = method.classes if section.label < 0 and 0 < method.classes <= COLUMNS else None
            shown = images
            if len(weights) > 1:
                columns = min(section.num_images, columns or COLUMNS)
                shown = np.concatenate([p.images[:columns] for p in parts])
            pictures.save_samples(path, shown, vocabulary, columns)
    counts = [p.evaluations for p in parts if p.evaluations is not None]
    states = np.concatenate([p.states for p in parts], axis=1)
    return Drawn(images, states, np.concatenate(counts) if counts else None)


def _titled(weight: float) -> str:
    return f"w = {weight:g}" if weight else "samples"


def write_samples(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, directory: epath.Path, step: int
) -> list[epath.Path]:
    """Grid, arrays (.npz) and noise-to-image strip, and a word on what they took; returns what process 0 wrote."""
    folder, vocabulary = directory / "samples", config.data.vocabulary or None
    images, states, evaluations = sample_grid(config, method, params, mesh, directory, step)
    arrays, strip = folder / f"{step}.npz", folder / f"{step}_strip.png"
    if jax.process_index() == 0:
        content: dict[str, Any] = {"samples": images}
        if method.classes:
            each = len(images) // len(config.sampling.guidance)
            content["labels"] = np.tile(asked(config, method.classes, np.arange(each)), len(config.sampling.guidance))
            content["guidance"] = np.repeat(np.asarray(config.sampling.guidance, np.float32), each)
        if evaluations is not None:
            content["evaluations"] = evaluations
            say(
                f"evaluations of the network for each sample: {np.mean(evaluations):.1f} on average, "
                f"{evaluations.min()} to {evaluations.max()} (tolerance {config.sampling.tolerance:g})"
            )
        with arrays.open("wb") as file:
            np.savez_compressed(file, **content)
        rows = STRIP_ROWS if vocabulary else STRIP_POINTS
        pictures.save_strip(strip, states[:, :rows], images[:rows], vocabulary)
    return [folder / f"{step}.png", arrays, strip]


def finish(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, directory: epath.Path, step: int
) -> dict[str, Any] | None:
    """Evaluate, plot and sample into a working directory, what the method can, and say so; eval.json's content."""
    result = None
    if method.measured is not None:
        result = write_evaluation(config, method, params, mesh, directory, step)
    if method.sample is None:
        return result
    began = time.monotonic()
    written = write_samples(config, method, params, mesh, directory, step)
    section = config.sampling
    steps = "steps of its own" if section.sampler == "adaptive" else f"{section.num_steps} steps"
    say(
        f"{section.num_images * len(section.guidance)} samples ({section.sampler}, {steps}) "
        f"in {time.monotonic() - began:.0f} s: {', '.join(map(str, written))}"
    )
    return result


def write_evaluation(
    config: ConfigDict,
    method: Method,
    params: Any,
    mesh: Mesh,
    directory: epath.Path,
    step: int,
    source: str | None = None,
) -> dict[str, Any]:
    """eval.json and the plots. source: where the weights come from, if not from the directory."""
    result, values = _evaluated(config, method, params, mesh, step, config.evaluation.weights)
    if source:
        result["weights_from"] = source
    bad = int(np.sum(~np.isfinite(values["total"]).all(0)))
    if bad:
        raise UserError(
            f"{words(result.get('headline', ['bits_per_dim'])[0])} is NaN or infinite for {bad} of "
            f"{result['examples']} examples ({result['estimator']}, {result['weights']} weights of step {step}); "
            "no eval.json is written"
        )
    schedule = plots.curves(method, params, mesh)
    drawn = _pictures(config, method, params, mesh, directory)
    if jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "eval.json", result)
        paths = plots.write_plots(directory, schedule, values, method.measure.by_level if method.measure else {})
        say(sentence(result))
        say(f"written: {', '.join(map(str, [directory / 'eval.json', *paths, *drawn]))}")
    return result


def _pictures(config: ConfigDict, method: Method, params: Any, mesh: Mesh, directory: epath.Path) -> list[epath.Path]:
    """What the method itself draws of the first images."""
    if method.pictures is None:
        return []
    batch = next(iter(_batches(config, _dataset(config), round_up(STRIP_ROWS, mesh), STRIP_ROWS)))
    return plots.write_pictures(method, params, mesh, directory, batch, config.evaluation.seed, STRIP_ROWS)


def say(text: str) -> None:
    """Print, on process 0 alone."""
    if jax.process_index() == 0:
        print(text, flush=True)
