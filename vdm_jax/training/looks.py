"""Evaluations and samples in the course of training."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.experimental import multihost_utils

from vdm_jax.errors import UserError
from vdm_jax.evaluation import report, samples
from vdm_jax.runtime import checkpoints
from vdm_jax.training.metrics import EVALUATED_TRAIN, TRAIN, read
from vdm_jax.training.run import Run, averaged, due, save
from vdm_jax.training.state import TrainState


def due_looks(run: Run, number: int) -> tuple[bool, bool]:
    """Whether to evaluate, and to draw samples, after this step, were it not for what is there already."""
    section = run.config.training
    inner = 0 < number < section.num_steps
    evaluating = inner and run.method.measured is not None and due(section.get("eval_every", 0), number)
    return evaluating, inner and run.method.sample is not None and due(section.get("sample_every", 0), number)


def looks(run: Run, state: TrainState, number: int, missing_only: bool = False) -> bool:
    """Evaluate and draw samples where they are due, or are missing in the directory; whether anything was done.

    What was trained is saved first, so a run that is ended here comes back to this place.
    """
    evaluating, sampling = due_looks(run, number)
    if missing_only:
        seen = [row for row in read(run.directory / "metrics.jsonl") if row["step"] == number]
        there = (
            any(row["split"] != TRAIN for row in seen),
            (run.directory / "samples" / f"{samples.stem(run.config, run.method, number)}.png").exists(),
        )
        # what process 0 sees decides
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
        except UserError as error:  # a picture that cannot be drawn yet is no reason to stop
            run.progress.say(f"no samples of step {number}: {error}")
    if not missing_only:
        run.preemption.steps_begin()
    return True


def evaluate(run: Run, weights: Any, number: int) -> None:
    """Bits/dim, or what else is measured, in the course of training, on training.eval_examples."""
    config = run.config
    result = report.evaluate(
        config, run.method, weights, run.mesh, number, config.evaluation.weights, config.training.eval_examples
    )
    run.writer.write(number, metrics_split(result), report.scalars(result))
    run.progress.say(report.sentence(result))


def metrics_split(result: dict[str, Any]) -> str:
    """What lines of an evaluation are told by; those of training say 'train'."""
    return EVALUATED_TRAIN if result["split"] == TRAIN else str(result["split"])
