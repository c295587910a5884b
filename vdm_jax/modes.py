"""The modes of the command line: each takes a checked config, a working directory and, optionally, weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from vdm_jax import conditioning, frozen, methods, pipelines, weights
from vdm_jax.core.method import Method
from vdm_jax.errors import UserError
from vdm_jax.evaluation import report
from vdm_jax.evaluation.likelihood import words
from vdm_jax.evaluation.names import Origin
from vdm_jax.methods import classifier_guidance
from vdm_jax.plan import programs
from vdm_jax.runtime import checkpoints, devices, workdir
from vdm_jax.training import metrics
from vdm_jax.training.loop import train
from vdm_jax.training.state import num_parameters

Earlier = Sequence[tuple[epath.Path, ConfigDict]]


def run_train(config: ConfigDict, directory: epath.Path, path: str | None) -> None:
    """Train or resume, then evaluate and sample.

    Args:
      config: the checked config.
      directory: the working directory.
      path: weights to start from, or None; ignored if the directory has checkpoints.
    """
    workdir.check_same(directory, config)
    resuming = checkpoints.steps(directory)
    if path and resuming:
        print(f"{directory} resumes from step {resuming[-1]}; --weights={path} is for a new run only")
        path = None
    _for_samples_alone(config, "training")
    saved = workdir.saved_config(directory)
    path, _ = frozen.named_by(path, config, saved)
    method = methods.build(config)
    if not method.phases:
        raise UserError(
            f"config.evaluation.task={config.evaluation.get('task', '')!r} is for --mode=eval; without it, "
            f"config.method={config.method!r} can be trained"
        )
    parts = frozen.load_parts(method)
    copies = {part.copied_to: parts[name][part.copied_to] for name, part in method.frozen.items() if part.copied_to}
    initial: Any = copies or None
    if path:
        initial, note = weights.to_start_from(path, config, methods.build(config))
        if note:
            report.say(note)
    flops_of = lambda config, devices: programs.train(config, devices).model.total
    train(config, directory, initial, flops_of=flops_of, frozen=parts)


def _for_samples_alone(config: ConfigDict, what: str) -> None:
    """Raise UserError for fields that only --mode=sample uses."""
    for name in ("classifier", "low_resolution"):
        if config.sampling.get(name):
            raise UserError(f"config.sampling.{name} is used only by --mode=sample; leave it out of {what}")


def _prepare(config: ConfigDict, directory: epath.Path, path: str | None, method: Method) -> tuple[Any, int, Any]:
    """Return (params, step, mesh) for eval and sample; write config.json into a new directory once all checks pass."""
    workdir.check_same(directory, config)
    params, step = weights.load(path or str(directory), config, methods.build(config))
    params = {**frozen.load_parts(method, training=False), **params}
    if path and checkpoints.steps(directory):
        raise UserError(f"{directory} holds results of its own checkpoints; use another --workdir for --weights={path}")
    mesh = devices.make_mesh(jax.device_count())  # evaluation and sampling pad their batches
    if workdir.saved_config(directory) is None:
        workdir.claim(directory, config)
    replicated = jax.tree.map(lambda _: devices.replicated(mesh), params)
    return devices.put_state(params, replicated), step, mesh


def run_eval(config: ConfigDict, directory: epath.Path, path: str | None) -> None:
    """Run the method's evaluators over the split and write the result to evals/ and eval.json."""
    if (distill := config.training.get("distill", "none")) != "none":
        raise UserError(
            f"config.training.distill={distill!r}: a student has no likelihood; use --mode=sample, or "
            "evaluate its teacher"
        )
    _for_samples_alone(config, "an evaluation")
    frozen.named_by(None, config, workdir.saved_config(directory))
    method = methods.build(config)
    if not method.evaluators:
        raise UserError(f"config.method={config.method!r} has no evaluator; use --mode=sample")
    report.check_data(config, method)
    params, step, mesh = _prepare(config, directory, path, method)
    report.write_evaluation(config, method, params, mesh, directory, step, source=path, sets=True)


def run_sample(config: ConfigDict, directory: epath.Path, path: str | None, earlier: Earlier = ()) -> None:
    """Write a grid, the arrays and a strip into samples/, under names that say which settings made them.

    earlier: (working directory, config) of the earlier stages of a pipeline, whose samples condition the next stage.
    """
    method = _sampled(config, directory)
    before = [_sampled(stage, place) for place, stage in earlier]
    for condition in method.conditions:
        if not (earlier and condition.takes_samples):
            condition.check_request(config)
    if not earlier:
        conditioning.requests(method.conditions, config, config.sampling.num_images)  # before anything is compiled
    prepared = [_prepare(stage, place, None, made) for (place, stage), made in zip(earlier, before, strict=True)]
    stages = [
        pipelines.Stage(str(place), stage, made, its)
        for (place, stage), made, (its, _, _) in zip(earlier, before, prepared, strict=True)
    ]
    pipelines.check(stages, method, config)
    origin = Origin(
        path or "",
        tuple(
            {"workdir": str(place), "step": number, "sampling": stage.sampling.to_dict()}
            for (place, stage), (_, number, _) in zip(earlier, prepared, strict=True)
        ),
    )
    params, step, mesh = _prepare(config, directory, path, method)
    known = pipelines.draw(stages, method, mesh, config.sampling.num_images, config.sampling.seed)
    config = pipelines.seeded(config, config.sampling.seed + len(stages))
    written = report.write_samples(config, method, params, mesh, directory, step, known, origin)
    report.say(f"written: {', '.join(map(str, written))}")


def _sampled(config: ConfigDict, directory: epath.Path) -> Method:
    """The method that samples are drawn from, with the classifier that guides them, if one does."""
    if methods.build(config).sample is None:
        raise UserError(f"config.method={config.method!r} draws no samples; use --mode=eval")
    frozen.named_by(None, config, workdir.saved_config(directory))
    classifier = frozen.classifier_of(config)
    return methods.build(config) if classifier is None else classifier_guidance.build(config, classifier)


def run_inspect(config: ConfigDict, directory: epath.Path, path: str | None) -> None:
    """Print what a config builds and what a working directory holds, without changing anything."""
    method = methods.build(config)
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    print(f"config      {config.method} on {config.data.name}, examples of shape {tuple(config.data.shape)}")
    for name, part in shapes.items():
        print(f"parameters  {num_parameters(part):,} in {name}")
    found = checkpoints.steps(directory)
    print(f"workdir     {directory}: {'checkpoints ' + ', '.join(map(str, found)) if found else 'no checkpoints'}")
    if path or found:
        params, step = weights.load(path or str(directory), config, method)
        print(f"weights     {path or directory}, step {step}")
        for name, value in method.describe(params).items():
            print(f"{name:<11} {float(value):.4f}")
    rows, measured = metrics.read(directory / "metrics.jsonl"), method.measured.name if method.measured else "loss"
    for split in dict.fromkeys(row["split"] for row in rows):
        last = [row for row in rows if row["split"] == split][-1]
        names = [measured] if measured in last else [n for n in last if n == "loss" or n.endswith("/loss")]
        shown = ", ".join(f"{words(n)} {last[n]}" for n in names)
        print(f"metrics     {split}, step {last['step']}: {shown}")
    path_of_result = directory / "eval.json"
    if path_of_result.exists():
        try:
            for line in report.sentences(json.loads(path_of_result.read_text()), method):
                print(f"eval        {line}")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path_of_result} is not a result of --mode=eval; run --mode=eval again") from error


RUN: dict[str, Callable[[ConfigDict, epath.Path, str | None], None]] = {
    "train": run_train,
    "eval": run_eval,
    "sample": run_sample,
    "inspect": run_inspect,
}
