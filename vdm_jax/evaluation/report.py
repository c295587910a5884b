"""Evaluation and sampling of a config, for `--mode=eval`, `--mode=sample` and the end of training."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax.core.method import Collected, Method, SampleSet
from vdm_jax.errors import UserError
from vdm_jax.evaluation import likelihood, names, plots, results, sample_quality
from vdm_jax.evaluation.likelihood import sentence, words
from vdm_jax.evaluation.measure import check_data, collect, evaluated_split, first_batch, measure
from vdm_jax.evaluation.samples import STRIP_ROWS, Drawn, check_samples, sample, sample_grid, write_samples
from vdm_jax.runtime.processes import say

__all__ = [
    "Drawn",
    "check_data",
    "check_samples",
    "evaluate",
    "evaluated_split",
    "finish",
    "measure",
    "sample",
    "sample_grid",
    "say",
    "scalars",
    "sentence",
    "sentences",
    "write_samples",
]


def evaluate(
    config: ConfigDict,
    method: Method,
    params: Any,
    mesh: Mesh,
    step: int,
    weights: str,
    examples: int = 0,
) -> dict[str, Any]:
    """Evaluate and return the content of eval.json.

    Args:
      config: the config.
      method: the method.
      params: its parameters.
      mesh: the device mesh.
      step: the training step of `params`.
      weights: 'ema' or 'params', for the record.
      examples: the number of examples; 0 for `evaluation.examples`.
    """
    return _evaluated(config, method, params, mesh, step, weights, examples)[0]


def _evaluated(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, step: int, weights: str, examples: int = 0
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the content of eval.json and the terms per example of a `PerExample` evaluator, if there is one."""
    result: dict[str, Any] = {"step": step, "weights": weights}
    values: dict[str, np.ndarray] = {}
    if method.measured is not None:
        of_examples, values = _per_example(config, method, params, mesh, step, weights, examples)
        _check_finite(of_examples, values)
        result |= of_examples
    for collected in collectors(method):
        entry = collect(config, method, collected, params, mesh, examples)
        result = {"split": entry["split"], **result, collected.name: entry}
    return result, values


def _per_example(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, step: int, weights: str, examples: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    values, about = measure(config, method, params, mesh, examples)
    about |= {"step": step, "weights": weights}
    assert method.measured is not None
    if method.bits_per_dim is not None:
        return {**likelihood.summarize(values), **about}, values
    name, *_ = headline = [method.measured.name, *method.measured.also]
    result = {"headline": headline, **likelihood.summarize(values, name), **about}
    return {**result, "by_level": likelihood.by_level(values, method.measured.by_level)}, values


def scalars(result: dict[str, Any]) -> dict[str, float]:
    """Return the scalar metrics of a result, those of an evaluator's own entry as 'entry/metric'."""
    found: dict[str, float] = {}
    for name, value in result.items():
        if isinstance(value, dict):
            found |= {f"{name}/{k}": v for k, v in scalars(value).items()}
        elif isinstance(value, int | float) and name not in ("step", "seed"):
            found[name] = float(value)
    return found


def finish(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, directory: epath.Path, step: int
) -> dict[str, Any] | None:
    """Evaluate, plot and sample, as far as the method supports it, and return the content of eval.json.

    The files are written to the working directory `directory`.
    """
    result = None
    if method.evaluates:
        result = write_evaluation(config, method, params, mesh, directory, step)
    if method.sample is None:
        return result
    began, section = time.monotonic(), config.sampling
    steps = "a variable number of steps" if section.sampler == "adaptive" else f"{section.num_steps} steps"
    count = section.num_images * len(section.get("guidance", (0.0,)))
    say(f"sampling {count} images in {steps} (config.sampling.num_images, config.sampling.num_steps)")
    written = write_samples(config, method, params, mesh, directory, step)
    say(
        f"{count} samples ({section.sampler}, {steps}) "
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
    sets: bool = False,
) -> dict[str, Any]:
    """Evaluate, write the result and the plots, and return the content of eval.json.

    The result is written to evals/, under a name that says what made it, and to eval.json, which is the latest one.

    Args:
      config: the config.
      method: the method.
      params: its parameters.
      mesh: the device mesh.
      directory: the working directory.
      step: the training step of `params`.
      source: the origin of the weights, if it is not the directory.
      sets: also evaluate sets of samples, as `--mode=eval` does.

    Raises:
      UserError: the result is not finite.
    """
    result, values = _evaluated(config, method, params, mesh, step, config.evaluation.weights)
    drawn_sets = sample_sets(config, method) if sets else []
    for evaluator in drawn_sets:
        split = evaluated_split(config)
        result[evaluator.name] = sample_quality.measure(config, method, params, mesh, split)
    if source:
        result["weights_from"] = source
    result["made_by"] = names.made_evaluation(config, bool(drawn_sets), source)
    schedule = plots.curves(method, params, mesh) if method.schedule is not None else None
    drawn = _pictures(config, method, params, mesh, directory)
    if jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        name = names.evaluation_name(config, result, SampleSet().name, [c.name for c in collectors(method)])
        written = results.write(directory, name, result)
        by_level = method.measured.by_level if method.measured else {}
        paths = plots.write_plots(directory, schedule, values, by_level) if schedule is not None else []
        for line in sentences(result, method, config.optimizer.ema):
            say(line)
        say(f"written: {', '.join(map(str, [*written, *paths, *drawn]))}")
    return result


def collectors(method: Method) -> list[Collected]:
    """Return the evaluators of all examples together."""
    return [evaluator for evaluator in method.evaluators if isinstance(evaluator, Collected)]


def sample_sets(config: ConfigDict, method: Method) -> list[SampleSet]:
    """Return the method's evaluators of sets of samples, or the default one if `evaluation.num_samples` is set."""
    own = [evaluator for evaluator in method.evaluators if isinstance(evaluator, SampleSet)]
    requested = bool(config.evaluation.get("num_samples", 0)) and method.sample is not None
    return own or ([SampleSet()] if requested else [])


def _check_finite(result: dict[str, Any], values: dict[str, np.ndarray]) -> None:
    bad = int(np.sum(~np.isfinite(values["total"]).all(0)))
    if bad:
        raise UserError(
            f"{words(result.get('headline', ['bits_per_dim'])[0])} is NaN or infinite for {bad} of "
            f"{result['examples']} examples ({result['estimator']}, {result['weights']} weights of step "
            f"{result['step']}); no result is written"
        )


def sentences(result: dict[str, Any], method: Method | None = None, decay: float | None = None) -> list[str]:
    """Return one line per evaluator of a result; raise KeyError or TypeError if it is not a valid result.

    Args:
      result: the content of eval.json.
      method: the method that was evaluated; without it, results of its `Collected` evaluators have no line.
      decay: the decay of averaged weights; None if it is not known.
    """
    lines = [sentence(result, decay)] if "passes" in result else []
    if SampleSet().name in result:
        lines.append(sample_quality.sentence(result[SampleSet().name], result, decay))
    for evaluator in collectors(method) if method else ():
        if evaluator.name in result:
            lines.append(evaluator.sentence(result[evaluator.name]))
    if not lines:
        raise KeyError("the result of an evaluator is missing")
    return lines


def _pictures(config: ConfigDict, method: Method, params: Any, mesh: Mesh, directory: epath.Path) -> list[epath.Path]:
    """Write the method's own pictures of the first images."""
    if method.pictures is None:
        return []
    batch = first_batch(config, method, mesh, STRIP_ROWS)
    return plots.write_pictures(method, params, mesh, directory, batch, config.evaluation.seed, STRIP_ROWS)
