"""Measurements of an evaluation split: batches of its first examples, terms per example, values of all examples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import conditioning, data
from vdm_jax.core.method import PREPARED, Collected, Method
from vdm_jax.errors import UserError
from vdm_jax.evaluation import likelihood
from vdm_jax.runtime import memory, progress
from vdm_jax.runtime.devices import round_up
from vdm_jax.runtime.processes import agree, placed


def check_data(config: ConfigDict, method: Method) -> None:
    """Raise UserError if the evaluation split is missing or does not match the config."""
    data.check(
        evaluated_split(config),
        tuple(config.data.shape),
        config.data.vocabulary or None,
        every=True,
        examples=config.evaluation.get("examples", 0),
        **conditioning.data_requirements(method.conditions),
    )


def evaluated_split(config: ConfigDict) -> data.Dataset:
    """Return the split to evaluate, without the random crops of training."""
    split = data.from_section(config.data, config.evaluation.split)
    return data.whole(split, tuple(config.data.shape)) if "crop" in config.data.augment else split


def measure(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, examples: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Measure the terms of the first `examples` images (0: as many as `evaluation.examples`).

    Returns:
      The terms per example, [passes, N] each, and a description of estimator and data; equal on all processes.
    """
    assert method.measured is not None
    section, dataset = config.evaluation, evaluated_split(config)
    batches, number = _split_batches(config, method, dataset, mesh, examples)
    with _running(config, batches, number * section.passes) as each:
        values = likelihood.per_example(method, params, each, mesh, seed=section.seed, passes=section.passes)
    about = {
        "estimator": method.measured.estimator,
        "dataset": f"{dataset.name} ({dataset.version})",
        "split": dataset.split,
        "seed": section.seed,
    }
    if method.bits_per_dim is not None and (given := _given(method)):
        about["given"] = given
    return values, about


def collect(
    config: ConfigDict, method: Method, evaluator: Collected, params: Any, mesh: Mesh, examples: int = 0
) -> dict[str, Any]:
    """Measure the first `examples` examples (0: as `evaluation.examples`) together; equal on all processes."""
    section, dataset = config.evaluation, evaluated_split(config)
    placed_params = placed(params, mesh)
    if evaluator.prepare is not None:
        placed_params = {**placed_params, PREPARED: jax.jit(evaluator.prepare)(placed_params)}
    with _running(config, *_split_batches(config, method, dataset, mesh, examples)) as each:
        values = likelihood.one_pass(evaluator.outputs, placed_params, each, mesh, seed=section.seed, number=0)
    about = {"dataset": f"{dataset.name} ({dataset.version})", "split": dataset.split, "seed": section.seed}
    return {**evaluator.summarize(values), "examples": len(next(iter(values.values()))), **about}


def _split_batches(
    config: ConfigDict, method: Method, dataset: data.Dataset, mesh: Mesh, examples: int = 0
) -> tuple[likelihood.Batches, int]:
    """Return () → the batches of the first `examples` images (0: `evaluation.examples` of them), and their number."""
    section = config.evaluation
    count = min(examples or section.examples or dataset.num_examples, dataset.num_examples)
    size = round_up(min(section.batch_size, count), mesh)
    return partial(_batches, config, method, dataset, size, count), -(-count // size)


@contextlib.contextmanager
def _running(config: ConfigDict, batches: likelihood.Batches, number: int) -> Iterator[likelihood.Batches]:
    """Show the progress over `number` batches, and explain exhausted memory; yields the batches that are counted."""
    with (
        memory.explained("an evaluation", memory.when_evaluating(config)),
        progress.shown("evaluating", number) as advance,
    ):
        yield lambda: progress.each(batches(), advance)


def _given(method: Method) -> str:
    """Describe what a likelihood is conditioned on, such as 'the label and 4 × 4 pixels'."""
    return " and ".join(filter(None, (c.description for c in reversed(method.conditions))))


def _batches(
    config: ConfigDict, method: Method, dataset: data.Dataset, size: int, count: int
) -> Iterable[dict[str, Any]]:
    """Yield this process's rows of the first `count` examples; all processes stop if one cannot be decoded."""
    batches = data.eval_batches(
        dataset,
        batch_size=size,
        examples=count,
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
        yield conditioning.batch_of(method.conditions, batch)


def first_batch(config: ConfigDict, method: Method, mesh: Mesh, count: int) -> dict[str, Any]:
    """Return a batch of the first examples of the split, padded to a multiple of the devices."""
    return next(iter(_batches(config, method, evaluated_split(config), round_up(count, mesh), count)))
