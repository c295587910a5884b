"""The modes of the command line: each takes a checked config, a working directory and, optionally, weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from vdm_jax import conditioning, frozen, inspection, methods, pipelines, weights
from vdm_jax.core.method import Method
from vdm_jax.errors import UserError
from vdm_jax.evaluation import report
from vdm_jax.evaluation.names import Origin
from vdm_jax.methods import clip_guidance, guided
from vdm_jax.plan import programs
from vdm_jax.runtime import checkpoints, devices, workdir
from vdm_jax.training.loop import train

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
    for name in ("classifier", "clip_model", "low_resolution"):
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
    report.check_samples(config, method)
    params, step, mesh = _prepare(config, directory, path, method)
    report.write_evaluation(config, method, params, mesh, directory, step, source=path, sets=True)


def run_sample(config: ConfigDict, directory: epath.Path, path: str | None, earlier: Earlier = ()) -> None:
    """Write a grid, the arrays and a strip into samples/, under names that say which settings made them.

    earlier: (working directory, config) of the earlier stages of a pipeline, whose samples condition the next stage.
    """
    method = _sampled(config, directory)
    stages = [pipelines.Stage(str(place), its, _sampled(its, place)) for place, its in earlier]
    for condition in method.conditions:
        if not (stages and condition.takes_samples):
            condition.check_request(config)
    if not stages:
        conditioning.requests(method.conditions, config, config.sampling.num_images)  # before anything is compiled
    pipelines.check(stages, method, config)
    stages = [_loaded(stage) for stage in stages]
    origin = Origin(path or "", tuple(stage.origin for stage in stages))
    params, step, mesh = _prepare(config, directory, path, method)
    if (guide := frozen.clip_of(config)) is not None and method.chain is not None:
        cond = conditioning.prepared(
            method.conditions, conditioning.requests(method.conditions, config, 1), method.encode
        )
        if beyond := clip_guidance.clamped(method.chain(params, cond, config.sampling.num_steps), guide):
            report.say(beyond)
    known = pipelines.draw(stages, method, mesh, config.sampling.num_images, config.sampling.seed)
    config = pipelines.seeded(config, config.sampling.seed + len(stages))
    written = report.write_samples(config, method, params, mesh, directory, step, known, origin)
    report.say(f"written: {', '.join(map(str, written))}")


def _loaded(stage: pipelines.Stage) -> pipelines.Stage:
    """Return the stage with the last parameters of its working directory."""
    params, step, _ = _prepare(stage.config, epath.Path(stage.name), None, stage.method)
    return stage._replace(params=params, step=step)


def _sampled(config: ConfigDict, directory: epath.Path) -> Method:
    """The method that samples are drawn from, with the guides that guide them, if any do."""
    if (method := methods.build(config)).sample is None:
        raise UserError(f"config.method={config.method!r} draws no samples; use --mode=eval")
    report.check_samples(config, method)
    frozen.named_by(None, config, workdir.saved_config(directory))
    guides = frozen.guides_of(config)
    return guided.build(config, guides) if guides else method


RUN: dict[str, Callable[..., None]] = {
    "train": run_train,
    "eval": run_eval,
    "sample": run_sample,
    "inspect": inspection.run,
}
