"""Training from a config: one visible loop. The same command on the same directory resumes."""

from __future__ import annotations

from typing import Any

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
from vdm_jax.training.step import make_train_step, metric_names


def train(config: ConfigDict, directory: epath.Path, initial: Any = None, finish: bool = True) -> TrainState:
    """Train to training.num_steps, then, if finish, evaluate and sample.

    initial: params to start from, where the directory holds no checkpoint yet.
    """
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
        num_threads=config.data.threads,
    )
    method = methods.build(config)
    workdir.check_same(directory, config)
    workdir.claim(directory, config)
    return _run(config, directory, method, mesh, iterator, dataset, initial, finish)


def _run(
    config: ConfigDict,
    directory: epath.Path,
    method: Method,
    mesh: Mesh,
    iterator: Any,
    dataset: data.Dataset,
    initial: Any,
    finish: bool,
) -> TrainState:
    section, batch_size = config.training, config.data.batch_size
    optimizers = {phase.name: optimizer(config) for phase in method.phases}
    names = metric_names(method, optimizers, _abstract_batch(config), batch_size)
    init = jax.jit(lambda: init_state(method, optimizers, names, section.seed), out_shardings=devices.replicated(mesh))
    saver = checkpoints.manager(directory, section.keep)
    state, start = _first_state(init, saver, iterator, initial, mesh)
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
    writer, progress = MetricsWriter(directory, start), Progress(section.num_steps, start, batch_size)
    progress.say(banner(config, dataset, state.params, start, directory))

    pending = None
    for number in range(start + 1, section.num_steps + 1):
        batch = devices.put_batch(mesh, next(iterator))
        state, loss = step(state, batch)
        jax.block_until_ready(pending)  # the step before: two in flight are enough
        pending = loss
        progress.advance()
        if number == start + 1:
            jax.block_until_ready(state)
            progress.restart_clock(number)
        last = number == section.num_steps
        saving = number % section.checkpoint_every == 0 or last
        logging = number % section.log_every == 0
        if logging or saving:
            stop_if_bad(state, directory)
        if logging:
            values = {k: float(v) / section.log_every for k, v in jax.device_get(state.window).items()}
            speed = progress.speed(number)
            writer.write(number, "train", {**values, "images_per_second": speed})
            progress.show(number, values, speed)
        if saving:
            checkpoints.save(saver, state, iterator)
        if due(section.eval_every, number) and not last:
            result = report.evaluate(config, method, state.ema, mesh, number, "ema", section.eval_examples)
            writer.write(number, result["split"], report.scalars(result))
            progress.say(report.sentence(result))
            progress.restart_clock(number)
        if due(section.sample_every, number) and not last:
            report.sample_grid(config, method, state.ema, mesh, directory, number)
            progress.restart_clock(number)
    saver.wait_until_finished()
    saver.close()
    progress.close()
    stop_if_bad(state, directory)
    if finish:
        weights = state.ema if config.evaluation.weights == "ema" else state.params
        result = report.finish(config, method, weights, mesh, directory, int(state.step))
        writer.write(int(state.step), result["split"], report.scalars(result))
    writer.close()
    return state


def due(every: int, step: int) -> bool:
    """Every so many steps; never if 0."""
    return every > 0 and step % every == 0


def _first_state(init: Any, saver: Any, iterator: Any, initial: Any, mesh: Mesh) -> tuple[TrainState, int]:
    """The newest checkpoint, else the initial state (on other weights if they are given)."""
    newest = saver.latest_step()
    if newest is None:
        state = init()
        if initial is not None:
            params = jax.device_put(initial, devices.replicated(mesh))
            state = state._replace(params=params, ema=jax.tree.map(jax.numpy.copy, params))
        return state, 0
    abstract = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=devices.replicated(mesh)),
        jax.eval_shape(init),
    )
    return checkpoints.restore(saver, newest, abstract, iterator), newest


def stop_if_bad(state: TrainState, directory: epath.Path) -> None:
    """UserError naming the first step whose loss or gradient was NaN or infinite."""
    bad = int(state.bad_step)
    if bad >= 0:
        good = checkpoints.steps(directory)
        kept = f"the checkpoint of step {good[-1]} is kept" if good else "no checkpoint was made yet"
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
