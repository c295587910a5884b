"""What `--mode=eval` and `--mode=sample` do, and what training does at its end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import data
from vdm_jax.errors import UserError
from vdm_jax.evaluation import likelihood, plots, wanted
from vdm_jax.evaluation.likelihood import sentence, words
from vdm_jax.evaluation.samples import STRIP_ROWS, Drawn, sample, sample_grid, write_samples
from vdm_jax.fields import value
from vdm_jax.methods.base import Method
from vdm_jax.runtime.devices import round_up
from vdm_jax.runtime.processes import agree, say
from vdm_jax.runtime.workdir import write_json

__all__ = [
    "Drawn",
    "check_data",
    "evaluate",
    "finish",
    "sample",
    "sample_grid",
    "say",
    "scalars",
    "sentence",
    "write_samples",
]


def check_data(config: ConfigDict) -> None:
    """The evaluation split is there and is what the config says; before anything is compiled."""
    shape, classes = tuple(config.data.shape), value(config, "model.num_classes", 0)
    data.check(wanted.dataset(config), shape, config.data.vocabulary or None, classes=classes, every=True)


def measure(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, examples: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(terms per example [passes, N], what they were measured on); equal on all processes."""
    section, dataset = config.evaluation, wanted.dataset(config)
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
    if method.measure is None and (given := _given(config)):
        about["given"] = given
    return values, about


def _given(config: ConfigDict) -> str:
    """What a likelihood is given, in words."""
    side = value(config, "model.low_resolution", 0)
    parts = ["the label"] * (value(config, "model.num_classes", 0) > 0) + [f"{side} × {side} pixels"] * (side > 0)
    return " and ".join(parts)


def _batches(config: ConfigDict, dataset: data.Dataset, size: int, count: int) -> Iterable[dict[str, np.ndarray]]:
    """This process's rows of the first `count` examples; where one can't be decoded, all processes stop."""
    batches = data.eval_batches(
        dataset,
        batch_size=size,
        examples=count,
        labels=value(config, "model.num_classes", 0) > 0,
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
        f"{section.num_images * len(section.get('guidance', (0.0,)))} samples ({section.sampler}, {steps}) "
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
    batch = next(iter(_batches(config, wanted.dataset(config), round_up(STRIP_ROWS, mesh), STRIP_ROWS)))
    return plots.write_pictures(method, params, mesh, directory, batch, config.evaluation.seed, STRIP_ROWS)
