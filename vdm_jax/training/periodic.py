"""Periodic evaluation and sampling during training."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.experimental import multihost_utils

from vdm_jax.errors import UserError
from vdm_jax.evaluation import names, report
from vdm_jax.runtime import checkpoints
from vdm_jax.training.metrics import EVALUATED_TRAIN, TRAIN, read
from vdm_jax.training.run import Run, averaged, due, save
from vdm_jax.training.state import TrainState


def due_results(run: Run, number: int) -> tuple[bool, bool]:
    """Return whether (an evaluation, a sample grid) is due after step `number`, ignoring existing results."""
    section = run.config.training
    inner = 0 < number < section.num_steps
    evaluating = inner and run.method.evaluates and due(section.get("eval_every", 0), number)
    return evaluating, inner and run.method.sample is not None and due(section.get("sample_every", 0), number)


def evaluate_and_sample(run: Run, state: TrainState, number: int, missing_only: bool = False) -> bool:
    """Evaluate and draw samples if they are due, and return whether anything was done.

    A checkpoint is saved first, so that a run that is killed here resumes at this step.

    Args:
      run: the run.
      state: the state after step `number`.
      number: the step.
      missing_only: skip results that the working directory already contains.
    """
    evaluating, sampling = due_results(run, number)
    if missing_only:
        seen = [row for row in read(run.directory / "metrics.jsonl") if row["step"] == number]
        there = (
            any(row["split"] != TRAIN for row in seen),
            (run.directory / "samples" / f"{names.sample_stem(run.config, run.method, number)}.png").exists(),
        )
        # process 0 decides for all processes
        evaluated, sampled = multihost_utils.broadcast_one_to_all(np.asarray(there))
        evaluating, sampling = evaluating and not evaluated, sampling and not sampled
    if not (evaluating or sampling):
        return False
    if number not in run.saver.all_steps():
        save(run, state)
    if not missing_only:
        run.preemption.steps_pause(lambda: checkpoints.finish(run.saver))
    weights = averaged(run, state)
    if evaluating:
        evaluate(run, weights, number)
    if sampling:
        try:
            report.sample_grid(run.config, run.method, weights, run.mesh, run.directory, number)
        except UserError as error:  # early in training sampling may fail; training continues
            run.progress.say(f"no samples of step {number}: {error}")
    if not missing_only:
        run.preemption.steps_begin()
    return True


def evaluate(run: Run, weights: Any, number: int) -> None:
    """Evaluate on `training.eval_examples` examples, then write and print the result."""
    config = run.config
    result = report.evaluate(
        config, run.method, weights, run.mesh, number, config.evaluation.weights, config.training.eval_examples
    )
    run.writer.write(number, metrics_split(result), report.scalars(result))
    for line in report.sentences(result, run.method, config.optimizer.ema):
        run.progress.say(line)


def metrics_split(result: dict[str, Any]) -> str:
    """Return the split name under which the metrics of an evaluation are logged; 'train' is reserved for training."""
    return EVALUATED_TRAIN if result["split"] == TRAIN else str(result["split"])
