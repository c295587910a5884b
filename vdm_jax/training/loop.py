"""Training from a config: one visible loop. The same command on the same directory resumes."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import data, methods
from vdm_jax.errors import UserError
from vdm_jax.evaluation import report
from vdm_jax.methods.base import Method
from vdm_jax.training import checkpoints, devices, workdir
from vdm_jax.training.metrics import MetricsWriter, Progress
from vdm_jax.training.optimizer import optimizer
from vdm_jax.training.state import TrainState, init_state, num_parameters
from vdm_jax.training.step import COUNT, make_train_step, metric_names


class Run(NamedTuple):
    """What the steps of one run share."""

    config: ConfigDict
    directory: epath.Path
    method: Method
    mesh: Mesh
    saver: Any
    writer: MetricsWriter
    progress: Progress


def train(config: ConfigDict, directory: epath.Path, initial: Any = None, finish: bool = True) -> TrainState:
    """Train to training.num_steps, then, if finish, evaluate and sample.

    initial: params to start from, where the directory holds no checkpoint yet.
    """
    workdir.check_same(directory, config)
    dataset = data.load(
        config.data.name,
        config.data.split,
        path=config.data.path,
        shape=tuple(config.data.shape),
        vocabulary=config.data.vocabulary or None,
    )
    data.check(dataset, tuple(config.data.shape), config.data.vocabulary or None)
    report.check_data(config)
    mesh = devices.data_mesh(config.data.batch_size)
    iterator = data.train_iterator(
        dataset,
        seed=config.training.seed,
        batch_size=config.data.batch_size,
        augment=tuple(config.data.augment),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=config.data.threads or None,
    )
    method = methods.build(config)
    total = config.training.num_steps
    with contextlib.ExitStack() as stack:
        saver = stack.enter_context(contextlib.closing(checkpoints.manager(directory, config.training.keep)))
        init, step = _functions(config, method, mesh)
        state, start = _first_state(init, saver, iterator, initial, mesh)
        if start < total or workdir.saved_config(directory) is None:
            workdir.claim(directory, config)
        writer = MetricsWriter(directory, start, finished=finish and start >= total)
        progress = Progress(total, start, config.data.batch_size)
        stack.enter_context(contextlib.closing(writer))
        stack.enter_context(contextlib.closing(progress))
        progress.say(banner(config, dataset, state.params, start, directory))
        run = Run(config, directory, method, mesh, saver, writer, progress)
        state = _steps(run, state, range(start + 1, total + 1), step, iterator)
        saver.wait_until_finished()
        if finish:
            result = report.finish(config, method, _averaged(config, state), mesh, directory, int(state.step))
            writer.write(int(state.step), result["split"], report.scalars(result))
    return state


def _functions(config: ConfigDict, method: Method, mesh: Mesh) -> tuple[Any, Any]:
    """(() → first state, (state, batch) → (state, loss)), compiled for the mesh on first use."""
    section, batch_size = config.training, config.data.batch_size
    optimizers = {phase.name: optimizer(config) for phase in method.phases}
    names = metric_names(method, optimizers, _abstract_batch(config), batch_size)
    init = jax.jit(lambda: init_state(method, optimizers, names, section.seed), out_shardings=devices.replicated(mesh))
    step = jax.jit(
        make_train_step(
            method,
            optimizers,
            seed=section.seed,
            total=batch_size,
            ema_decay=config.optimizer.ema,
            log_every=section.log_every,
        ),
        in_shardings=(devices.replicated(mesh), devices.split(mesh)),
        out_shardings=devices.replicated(mesh),
        donate_argnums=0,
    )
    return init, step


def _steps(run: Run, state: TrainState, numbers: range, step: Any, iterator: Any) -> TrainState:
    """The steps of these numbers, with what is due after each of them."""
    section = run.config.training
    pending = None
    for number in numbers:
        batch = devices.put_batch(run.mesh, next(iterator))
        state, loss = step(state, batch)
        jax.block_until_ready(pending)  # the step before: two in flight are enough
        pending = loss
        run.progress.advance()
        if number == numbers.start:
            jax.block_until_ready(state)
            run.progress.restart_clock(number)
        last = number == section.num_steps
        logging = due(section.log_every, number)
        evaluating = due(section.eval_every, number) and not last
        sampling = due(section.sample_every, number) and not last
        saving = due(section.checkpoint_every, number) or last
        if logging or evaluating or sampling or saving:
            stop_if_bad(state, run.saver)
        if logging:
            log(run, state, number)
        if evaluating:
            evaluate(run, state, number)
        if sampling:
            report.sample_grid(run.config, run.method, _averaged(run.config, state), run.mesh, run.directory, number)
            run.progress.restart_clock(number)
        # Last: a run that is killed before this is done makes this step again, with its evaluation.
        if saving:
            checkpoints.save(run.saver, state, iterator)
    return state


def due(every: int, step: int) -> bool:
    """Every so many steps; never if 0."""
    return every > 0 and step % every == 0


def log(run: Run, state: TrainState, number: int) -> None:
    """Means of the metrics since the last line, and the speed."""
    window = jax.device_get(state.window)
    count = float(window.pop(COUNT))
    values = {k: float(v) / count for k, v in window.items()}
    speed = run.progress.speed(number)
    run.writer.write(number, "train", {**values, "images_per_second": speed})
    run.progress.show(number, values, speed)


def evaluate(run: Run, state: TrainState, number: int) -> None:
    """Bits/dim in the course of training, on training.eval_examples."""
    config, weights = run.config, _averaged(run.config, state)
    result = report.evaluate(
        config, run.method, weights, run.mesh, number, config.evaluation.weights, config.training.eval_examples
    )
    run.writer.write(number, result["split"], report.scalars(result))
    run.progress.say(report.sentence(result))
    run.progress.restart_clock(number)


def _averaged(config: ConfigDict, state: TrainState) -> Any:
    """The weights that evaluation.weights asks for."""
    return state.ema if config.evaluation.weights == "ema" else state.params


def _first_state(init: Any, saver: Any, iterator: Any, initial: Any, mesh: Mesh) -> tuple[TrainState, int]:
    """The newest checkpoint, else the initial state (on other weights if they are given)."""
    newest = saver.latest_step()
    if newest is None:
        state = init()
        if initial is not None:
            # Copies: the first step donates its state, and `initial` is the caller's.
            params, ema = (
                jax.device_put(jax.tree.map(jax.numpy.copy, initial), devices.replicated(mesh)) for _ in range(2)
            )
            state = state._replace(params=params, ema=ema)
        return state, 0
    abstract = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=devices.replicated(mesh)),
        jax.eval_shape(init),
    )
    return checkpoints.restore(saver, newest, abstract, iterator), newest


def stop_if_bad(state: TrainState, saver: Any) -> None:
    """UserError naming the first step whose loss or gradient was NaN or infinite."""
    bad = int(state.bad_step)
    if bad >= 0:
        saver.wait_until_finished()
        good = saver.latest_step()
        kept = "no checkpoint was made yet" if good is None else f"the checkpoint of step {good} is kept"
        raise UserError(
            f"the loss or its gradient was NaN or infinite at step {bad}; {kept}; "
            "try a lower config.optimizer.learning_rate or a smaller config.optimizer.clip in a new --workdir"
        )


def _abstract_batch(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    size, shape = config.data.batch_size, tuple(config.data.shape)
    dtype = np.uint8 if config.data.vocabulary else np.float32
    return {
        "image": jax.ShapeDtypeStruct((size, *shape), dtype),
        "conditioning": jax.ShapeDtypeStruct((size,), np.float32),
    }


def banner(config: ConfigDict, dataset: data.Dataset, params: Any, start: int, directory: epath.Path) -> str:
    """What is about to run, in a few lines."""
    device, count = jax.devices()[0], jax.device_count()
    size, state_bytes = config.data.batch_size, 4 * num_parameters(params)
    begin = f"resuming at step {start} from {directory}" if start else f"starting at step 0 in {directory}"
    return "\n".join(
        [
            f"devices     {count} × {device.device_kind} ({device.platform})",
            f"batch       {size}, {size // count} a device",
            f"data        {dataset.name} {dataset.split}, {dataset.num_examples:,} examples ({dataset.version})",
            f"parameters  {num_parameters(params):,}; {4 * state_bytes / 2**20:,.0f} MiB of state a device",
            f"steps       {config.training.num_steps:,}, "
            f"{config.training.num_steps * size / max(dataset.num_examples, 1):,.1f} epochs; {begin}",
        ]
    )
