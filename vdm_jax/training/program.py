"""The compiled functions of a run and the shardings of their arrays, from a config and a mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import conditioning
from vdm_jax.core.method import Method
from vdm_jax.errors import UserError
from vdm_jax.optimizer import optimizer
from vdm_jax.runtime import devices
from vdm_jax.training.state import TrainState, init_state
from vdm_jax.training.step import frozen_like, make_train_call, make_train_step, metric_shapes

AXIS = "batch"


class Program(NamedTuple):
    """The compiled functions of a run.

    Attributes:
      init: () → the initial state.
      step: (state, batches of n steps, halt, frozen parts if any) → (state, Report) for the method's usual variant;
        donates the state.
      variants: maps a variant to its step.
      abstract: the shapes and dtypes of the state.
      shardings: the sharding of each leaf of the state.
      put: maps this process's rows of a global batch to the input of `step`.
      enter: maps a state of global arrays to the input of `step`.
      leave: the inverse of `enter`.
      place: maps frozen parts to the last arguments of `step`.
      frozen: the shapes and dtypes of these arguments.
    """

    init: Callable[[], TrainState]
    step: Callable[..., Any]
    variants: Callable[[Hashable], Callable[..., Any]]
    abstract: TrainState
    shardings: TrainState
    put: Callable[[dict[str, Any]], dict[str, Any]]
    enter: Callable[[TrainState], TrainState] = lambda state: state
    leave: Callable[[TrainState], TrainState] = lambda state: state
    place: Callable[[Any], tuple[Any, ...]] = lambda frozen: ()
    frozen: tuple[Any, ...] = ()


def functions(config: ConfigDict, method: Method, mesh: Mesh, compiler_options: Any = None) -> Program:
    """Return the program of a config, compiled on first use, for `training.parallelism` 'jit' or 'pmap'."""
    section, total = config.training, config.data.batch_size
    check_coupling(config, method)
    optimizers = {phase.name: optimizer(config, phase.rate, phase.decayed) for phase in method.phases}
    metrics = metric_shapes(method, abstract_batch(config, method), total)
    first = lambda: init_state(method, optimizers, metrics, section.seed)
    abstract = jax.eval_shape(first)
    shardings = devices.state_shardings(mesh, abstract)
    mapped = section.parallelism == "pmap"
    frozen = jax.eval_shape(lambda: frozen_like(method))

    def call_of(variant: Hashable) -> Any:
        step = make_train_step(
            method,
            optimizers,
            seed=section.seed,
            total=total,
            ema_decay=config.optimizer.ema,
            log_every=section.log_every,
            accumulate=section.accumulate,
            bad_steps=section.bad_steps,
            spike=section.spike,
            axis=AXIS if mapped else None,
            variant=variant,
        )
        return make_train_call(step, AXIS if mapped else None)

    init = jax.jit(first, out_shardings=shardings, compiler_options=compiler_options)
    if mapped:
        return _mapped(call_of, init, method.variant(1), abstract, shardings, mesh, frozen)
    everywhere, parts, places = devices.replicated(mesh), devices.split(mesh), devices.state_shardings(mesh, frozen)

    @functools.cache
    def compiled(variant: Hashable) -> Any:
        return jax.jit(
            devices.under(mesh, call_of(variant)),
            in_shardings=(shardings, parts, parts, *([places] if frozen else [])),
            out_shardings=(shardings, everywhere),
            donate_argnums=0,
            compiler_options=compiler_options,
        )

    put = lambda batch: devices.put_batch(mesh, batch)
    return Program(
        init,
        compiled(method.variant(1)),
        compiled,
        abstract,
        shardings,
        put,
        place=lambda parts: (devices.put_state(parts, places),) if frozen else (),
        frozen=(frozen,) if frozen else (),
    )


def _mapped(
    call_of: Callable[[Hashable], Any],
    init: Any,
    usual: Hashable,
    abstract: TrainState,
    shardings: TrainState,
    mesh: Mesh,
    frozen: Any,
) -> Program:
    """Return the program under pmap; batches have a leading device axis and the state has none."""
    # In mesh order, so that `axis_index` matches the rows that each process holds.
    order = list(mesh.devices.flat)
    local = sum(device.process_index == jax.process_index() for device in order)

    @functools.cache
    def compiled(variant: Hashable) -> Any:
        return jax.pmap(
            call_of(variant),
            axis_name=AXIS,
            in_axes=(None, 0, 0, None)[: 4 if frozen else 3],
            out_axes=None,
            donate_argnums=0,
            devices=order,
        )

    def put(batch: dict[str, Any]) -> dict[str, Any]:
        rows = lambda v: np.reshape(v, (local, -1, *np.shape(v)[1:]))
        return cast(dict[str, Any], jax.tree.map(rows, batch))

    return Program(
        init,
        compiled(usual),
        compiled,
        abstract,
        shardings,
        put,
        lambda state: devices.to_local(state, mesh),
        lambda state: devices.to_global(state, mesh),
        place=lambda parts: (parts,) if frozen else (),
        frozen=(frozen,) if frozen else (),
    )


def check_coupling(config: ConfigDict, method: Method) -> None:
    """Raise UserError if a loss that couples the examples of a batch would be accumulated over microbatches."""
    parts, coupled = config.training.accumulate, [p.name for p in method.phases if p.couples_batch and not p.coupling]
    if parts > 1 and coupled:
        raise UserError(
            f"config.training.accumulate={parts} would split the batch, but the loss of {coupled[0]!r} compares all "
            "examples of a batch; set it to 1, and use more devices or config.model.remat='full' to save memory"
        )


def check_parallelism(config: ConfigDict, mesh: Mesh) -> None:
    """Raise UserError if the parallelism of a config does not fit the number of devices, or pmap."""
    section = config.training
    if section.parallelism == "pmap" and section.fsdp > 1:
        raise UserError(
            f"config.training.parallelism='pmap' replicates the state on every device, but "
            f"config.training.fsdp={section.fsdp} shards it; use 'jit', or fsdp=1"
        )
    rows = config.data.batch_size // mesh.size
    if rows % section.accumulate:
        raise UserError(
            f"config.training.accumulate={section.accumulate} must divide the {rows} images per device of "
            f"config.data.batch_size={config.data.batch_size} on {mesh.size} devices; "
            f"try {devices.largest_divisor(rows, section.accumulate)}"
        )
    if len(section.profile_steps) != 2 or section.profile_steps[0] > section.profile_steps[1]:
        raise UserError(
            f"config.training.profile_steps={tuple(section.profile_steps)} must be the first and the last step "
            "of the trace, such as (20, 25)"
        )


def abstract_batch(config: ConfigDict, method: Method) -> dict[str, Any]:
    """Return the shapes and dtypes of a global batch."""
    size, shape = config.data.batch_size, tuple(config.data.shape)
    dtype = np.uint8 if config.data.vocabulary else np.float32
    return {
        "x": jax.ShapeDtypeStruct((size, *shape), dtype),
        "cond": conditioning.specs(method.conditions, size),
        "replaced": jax.ShapeDtypeStruct((size,), np.float32),
    }
