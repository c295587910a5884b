"""Training from a config in one visible loop. Running the same command on the same directory resumes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import conditioning, data, methods
from vdm_jax.evaluation import report
from vdm_jax.runtime import checkpoints, chips, devices, lock, memory, tokenizer, workdir
from vdm_jax.runtime.preemption import Preempted, Preemption
from vdm_jax.runtime.progress import duration
from vdm_jax.training.banner import banner
from vdm_jax.training.health import Health
from vdm_jax.training.metrics import TRAIN, MetricsWriter, Progress, Stopwatch, summary
from vdm_jax.training.periodic import due_results, evaluate_and_sample, metrics_split
from vdm_jax.training.profile import Profile
from vdm_jax.training.program import check_parallelism, functions
from vdm_jax.training.restart import first_state, recover, same_everywhere
from vdm_jax.training.run import Run, averaged, due, save
from vdm_jax.training.state import TrainState
from vdm_jax.training.step import REPLACED

# (config, devices) → floating-point operations of the model in one step
FlopsOf = Callable[[ConfigDict, list[Any]], int]


def train(
    config: ConfigDict,
    directory: epath.Path,
    initial: Any = None,
    finish: bool = True,
    flops_of: FlopsOf | None = None,
    frozen: Any = None,
) -> TrainState:
    """Train to `training.num_steps` and return the final state.

    Args:
      config: the checked config.
      directory: the working directory; a checkpoint in it is resumed.
      initial: params to start from if the directory has no checkpoint yet.
      finish: evaluate and sample after the last step.
      flops_of: counts the model's floating-point operations per step, for the utilization in the metrics.
      frozen: the params of the method's frozen parts (`weights.frozen`).

    Raises:
      Preempted: SIGTERM or Ctrl-C was received; the state is saved.
      UserError: the config, the data or the directory cannot be used, or training diverged.
    """
    with contextlib.closing(Preemption()) as preemption:
        return _train(config, directory, initial, finish, preemption, flops_of, frozen or {})


def _train(
    config: ConfigDict,
    directory: epath.Path,
    initial: Any,
    finish: bool,
    preemption: Preemption,
    flops_of: FlopsOf | None,
    frozen: Any,
) -> TrainState:
    workdir.check_same(directory, config)
    dataset, method = data.from_section(config.data, config.data.split), methods.build(config)
    data.check(
        dataset,
        tuple(config.data.shape),
        config.data.vocabulary or None,
        crops="crop" in config.data.augment,
        max_undecodable=config.data.max_undecodable,
        **conditioning.data_requirements(method.conditions),
    )
    workdir.check_resume(directory, config, dataset.identity)
    # a GAN uses the training split only
    if method.evaluates or any(c.needs_evaluation_data for c in method.conditions):
        report.check_data(config, method)
    report.check_samples(config, method)
    mesh = devices.make_mesh(config.data.batch_size, config.training.fsdp)
    check_parallelism(config, mesh)
    iterator = data.train_iterator(
        dataset,
        seed=config.training.seed,
        batch_size=config.data.batch_size,
        augment=tuple(config.data.augment),
        size=config.data.shape[0],
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=config.data.threads or None,
    )
    section = config.training
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory.explained("training", memory.when_training(config, mesh.size)))
        close = lambda thing: stack.enter_context(contextlib.closing(thing))
        stack.enter_context(lock.hold(directory))
        saver = close(checkpoints.manager(directory, section.keep, section.keep_every))
        writer, progress = close(MetricsWriter(directory)), close(Progress(section.num_steps))
        words = tokenizer.ensure(config, dataset, directory)
        program = functions(config, method, mesh)
        health = Health(config, dataset.num_examples)
        run = Run(
            config, directory, method, mesh, program, iterator, saver, writer, progress, preemption, health, frozen
        )
        same_everywhere(run, dataset)
        state, start = first_state(run, initial)
        finished = start >= section.num_steps
        if not finished or workdir.saved_config(directory) is None:
            workdir.claim(directory, config, dataset.identity)
        writer.begin(start, finished=finish and finished)
        progress.begin(start)
        progress.say(banner(config, dataset, program, mesh, start, directory))
        if words:
            progress.say(words)
        state = _steps(run, state, start, stopwatch(config, mesh, flops_of))
        preemption.steps_pause(lambda: checkpoints.finish(saver))
        checkpoints.finish(saver)
        if finish:
            result = report.finish(config, method, averaged(run, state), mesh, directory, int(state.step))
            if result is not None:
                writer.write(int(state.step), metrics_split(result), report.scalars(result))
    return state


def _steps(run: Run, state: TrainState, start: int, watch: Stopwatch) -> TrainState:
    """Run the steps from `start` to the last, and log, evaluate and save when due.

    `state` and the returned state consist of global arrays.
    """
    section, program = run.config.training, run.program
    evaluate_and_sample(run, state, start, missing_only=True)
    health = run.health
    profile = Profile(run.directory, tuple(section.profile_steps))
    pending, number = None, start
    compiled: set[tuple[int, Hashable]] = set()  # (steps per call, variant)
    state, frozen = program.enter(state), program.place(run.frozen)
    while number < section.num_steps:
        variant = run.method.variant(number)
        most = min(section.steps_per_call, next_stop(section, number) - number)
        count = alike(run.method.variant, number, most)
        if compiled and (count, variant) not in compiled:  # compilation may outlast the grace period of SIGTERM
            save(run, program.leave(state))
            run.preemption.steps_pause(lambda: checkpoints.finish(run.saver))
        profile.before(number, count)
        with watch.waiting():
            batches = tuple(program.put(_batch(run)) for _ in range(count))
        new, began = (count, variant) not in compiled, time.monotonic()
        if new:
            run.progress.say("compiling the training step …")
        state, newest = program.variants(variant)(state, batches, _halt(run), *frozen)
        number += count
        run.progress.advance(count)
        if new:
            jax.block_until_ready(state)
            taken = "the first step" if count == 1 else f"the first {count} steps"
            run.progress.say(f"compiled, and took {taken}, in {duration(time.monotonic() - began)}")
            run.preemption.steps_begin()
            watch.restart(number)
            compiled.add((count, variant))
        stopping = number == next_stop(section, number - 1)
        # Check the previous call only, so that two calls stay in flight.
        verdict = health.verdict_on([pending, newest] if stopping else [pending])
        pending = None if stopping else newest
        profile.after(number, newest)
        if verdict.bad:
            state, number = recover(run, verdict, number)
            state, pending = program.enter(state), None
            watch.restart(number)
            continue
        if due(section.log_every, number):
            log(run, state, number, watch)
        halting = verdict.halt if jax.process_count() > 1 else run.preemption.requested
        if halting or due(section.checkpoint_every, number) or number == section.num_steps:
            save(run, program.leave(state))
        if halting:
            checkpoints.finish(run.saver)
            multihost_utils.sync_global_devices("vdm_jax: all processes have stopped")
            preemption = run.preemption
            raise Preempted(
                f"{preemption.word} after step {number}, which is saved; run the same command to resume",
                preemption.status,
            )
        if any(due_results(run, number)) and evaluate_and_sample(run, program.leave(state), number):
            watch.restart(number)
    profile.close()
    return program.leave(state)


def stopwatch(config: ConfigDict, mesh: Mesh, flops_of: FlopsOf | None) -> Stopwatch:
    """Return a stopwatch, which also reports the model FLOPs utilization if the peak of the chip is known."""
    peak = chips.peak_flops(jax.devices()[0].device_kind, config.model.dtype)
    if peak is None or flops_of is None:
        return Stopwatch(config.data.batch_size)
    return Stopwatch(config.data.batch_size, flops_of(config, list(mesh.devices.flat)), peak * mesh.size)


def next_stop(section: ConfigDict, number: int) -> int:
    """Return the first step after `number` at which something is due, or the last step of the run."""
    periods = [section.get(f"{what}_every", 0) for what in ("log", "eval", "sample", "checkpoint")]
    return min([section.num_steps, *((number // every + 1) * every for every in periods if every)])


def alike(variant: Callable[[int], Hashable], number: int, most: int) -> int:
    """Return how many steps (1 to `most`) from step `number` on share its variant and can run in one call."""
    return next((n for n in range(1, most) if variant(number + n) != variant(number)), most)


def _batch(run: Run) -> dict[str, Any]:
    """Return this process's rows of the next batch."""
    return conditioning.batch_of(run.method.conditions, next(run.iterator))


def _halt(run: Run) -> Any:
    """Return one flag per device, by which all processes of a job learn at the same step that one must stop."""
    if jax.process_count() == 1:
        return None
    flags = np.full(jax.local_device_count(), run.preemption.requested, np.int32)
    return run.program.put({"halt": flags})["halt"]


def log(run: Run, state: TrainState, number: int, watch: Stopwatch) -> None:
    """Log the means of the metrics since the last log line, and the speed."""
    values = summary(jax.device_get(state.window))
    speed = watch.measure(number)
    run.health.count_records(values[REPLACED], run.config.training.log_every)
    run.writer.write(number, TRAIN, {**values, **speed})
    run.progress.show(number, values, speed)
