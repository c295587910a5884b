"""`--mode=inspect`: what a config builds, and what a working directory holds. Nothing is compiled or changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from vdm_jax import methods, weights
from vdm_jax.config import overrides
from vdm_jax.core.method import Collected, Evaluator, Method, PerExample
from vdm_jax.errors import UserError
from vdm_jax.evaluation import report, results
from vdm_jax.evaluation.likelihood import words
from vdm_jax.presets import papers
from vdm_jax.runtime import checkpoints
from vdm_jax.training import metrics
from vdm_jax.training.program import abstract_batch
from vdm_jax.training.state import num_parameters

LISTED = 10  # evaluations, and sets of samples, that are named


def run(config: ConfigDict, directory: epath.Path | None, path: str | None) -> None:
    """Print the fields of a config, the model that it builds, and the content of a working directory.

    Args:
      config: the checked config.
      directory: the working directory, or None.
      path: the path of other weights, or None.

    Raises:
      UserError: the weights do not fit the config, or a result cannot be read.
    """
    method = methods.build(config)
    held = list(_held(config, directory, path, method))
    print(overrides.describe(config), end="\n\n")
    for name, text in [*_built(config, method), *held]:
        print(f"{name:<11} {text}")


def _built(config: ConfigDict, method: Method) -> Iterator[tuple[str, str]]:
    """Yield (heading, text) on the model that a config builds."""
    shape = tuple(config.data.shape)
    yield "config", f"{config.method} on {config.data.name}, examples of shape {shape}"
    if mixed := papers.departure(config):
        yield "note", mixed
    batch = abstract_batch(config, method)
    columns = {"x": batch["x"], **batch["cond"]}
    yield "batch", ", ".join(f"{name} {_array(spec)}" for name, spec in columns.items())
    for name, part in jax.eval_shape(method.init, jax.random.key(0)).items():
        yield "parameters", f"{num_parameters(part):,} in {name}"
    for key, part in method.frozen.items():
        yield "frozen", f"{key}: {part.what}, of config.{part.field}={part.path!r}"
    for phase in method.phases:
        rate = config.optimizer.get(phase.rate) or config.optimizer.learning_rate
        yield "phase", f"{phase.name}: trains {' and '.join(phase.trains)}, config.optimizer.{phase.rate}={rate:g}"
    for condition in method.conditions:
        dropped = f", dropped with probability {condition.drop_rate:g}" if condition.drop_rate else ""
        guided = ", may guide samples" if condition.guidable else ""
        yield "condition", f"{condition.name}: {_array(condition.value_spec(config.data.batch_size))}{dropped}{guided}"
    if not method.conditions:
        yield "condition", "none"
    for evaluator in method.evaluators:
        yield "evaluator", _evaluator(evaluator)
    if method.sample is not None:
        section = config.sampling
        yield "sampler", f"{section.sampler}, {section.num_steps} steps, {section.num_images} images"


def _array(spec: Any) -> str:
    return f"{spec.dtype} {list(spec.shape)}"


def _evaluator(evaluator: Evaluator) -> str:
    if isinstance(evaluator, PerExample):
        also = f", with {', '.join(map(words, evaluator.also))}" if evaluator.also else ""
        return f"{words(evaluator.name)} ({evaluator.estimator}){also}"
    kind = "all examples of the split" if isinstance(evaluator, Collected) else "a set of samples"
    return f"{words(evaluator.name)} of {kind}"


def _held(
    config: ConfigDict, directory: epath.Path | None, path: str | None, method: Method
) -> Iterator[tuple[str, str]]:
    """Yield (heading, text) on a working directory and weights."""
    found = checkpoints.steps(directory) if directory is not None else []
    if directory is not None:
        there = f"checkpoints {', '.join(map(str, found))}" if found else "no checkpoints"
        yield "workdir", f"{directory}: {there if directory.exists() else 'does not exist'}"
    if path or found:
        params, step = weights.load(path or str(directory), config, method)
        yield "weights", f"{path or directory}, step {step}"
        for name, value in method.describe(params).items():
            yield name, f"{float(value):.4f}"
    if directory is not None:
        yield from _metrics(directory, method)
        yield from _evaluations(config, directory, method)
        yield from _listed("samples", directory / "samples", "*.npz")


def _metrics(directory: epath.Path, method: Method) -> Iterator[tuple[str, str]]:
    """Yield the latest line of metrics of each split."""
    rows, measured = metrics.read(directory / "metrics.jsonl"), method.measured.name if method.measured else "loss"
    for split in dict.fromkeys(row["split"] for row in rows):
        last = [row for row in rows if row["split"] == split][-1]
        names = [measured] if measured in last else [n for n in last if n == "loss" or n.endswith("/loss")]
        yield "metrics", f"{split}, step {last['step']}: {', '.join(f'{words(n)} {last[n]}' for n in names)}"


def _evaluations(config: ConfigDict, directory: epath.Path, method: Method) -> Iterator[tuple[str, str]]:
    """Yield the sentences of the latest evaluation and the names of all evaluations."""
    latest = directory / results.LATEST
    if latest.exists():
        try:
            lines = report.sentences(json.loads(latest.read_text()), method, config.optimizer.ema)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{latest} is not a result of --mode=eval; run --mode=eval again") from error
        yield from (("eval", line) for line in lines)
    yield from _listed("evals", directory / results.FOLDER, "*.json")


def _listed(heading: str, folder: epath.Path, pattern: str) -> Iterator[tuple[str, str]]:
    """Yield the number of files of a folder, and their names, the newest ones if there are many."""
    files = list(folder.glob(pattern)) if folder.exists() else []
    if not files:
        return
    newest = sorted(files, key=lambda file: (file.stat().mtime, file.name))[-LISTED:]
    which = f"{len(files)}, the newest " if len(files) > LISTED else ""
    yield heading, f"{which}{', '.join(file.stem for file in newest)} in {folder}"
