"""The programs a config runs, traced for a mesh of devices that may not exist: the trainer's own step and
the sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vdm_jax import methods
from vdm_jax.errors import UserError
from vdm_jax.methods.base import example_keys
from vdm_jax.methods.conditioning import Guided
from vdm_jax.plan import flops
from vdm_jax.plan.flops import Flops
from vdm_jax.training import devices
from vdm_jax.training.program import abstract_batch, check_parallelism, functions
from vdm_jax.training.state import num_parameters


class Program(NamedTuple):
    """traced: of jax.jit; lower and compile it. executed: what it computes; model: the same without
    recomputation. calls of it make the whole run; each is for `examples`. weights: bytes of parameters,
    averages and optimiser state, all together."""

    traced: Any
    parameters: int
    weights: int
    executed: Flops
    model: Flops
    examples: int
    calls: int


def train(config: ConfigDict, chips: list[Any]) -> Program:
    """One step of the trainer."""
    config = changed(config, {"training.parallelism": "jit"})
    traced, state = _step(config, chips)
    executed = flops.count(traced.jaxpr)
    model = executed
    if config.model.remat != "none":
        model = flops.count(_step(changed(config, {"model.remat": "none"}), chips)[0].jaxpr)
    return Program(
        traced,
        num_parameters(state.params),
        num_bytes(state),
        executed,
        model,
        config.data.batch_size,
        config.training.num_steps,
    )


def _step(config: ConfigDict, chips: list[Any]) -> tuple[Any, Any]:
    """(traced step, abstract state)."""
    mesh = devices.make_mesh(config.data.batch_size, config.training.fsdp, chips)
    check_parallelism(config, mesh)
    made = functions(config, methods.build(config), mesh)
    step: Any = made.step  # of jax.jit
    return step.trace(made.abstract, (abstract_batch(config),), None), made.abstract


def sample(config: ConfigDict, chips: list[Any]) -> Program:
    """One batch of `--mode=sample`."""
    section, method = config.sampling, methods.build(config)
    if section.classifier:
        raise UserError("--plan=sample does not count the network of config.sampling.classifier; leave it out")
    if method.sample is None:
        raise UserError(f"config.method={config.method!r} draws no samples; plan its training")
    if section.sampler == "adaptive":
        raise UserError(
            "config.sampling.sampler='adaptive' takes as many steps as the network wants, which no plan knows; "
            "plan 'heun' with half the evaluations that you expect as config.sampling.num_steps"
        )
    mesh = devices.make_mesh(len(chips), devices=chips)
    size = devices.round_up(min(section.batch_size, section.num_images), mesh)
    whole, parts = devices.replicated(mesh), devices.split(mesh)
    draw = partial(method.sample, num_steps=section.num_steps)
    params = jax.eval_shape(method.init, jax.random.key(0))
    keys = jax.eval_shape(lambda: example_keys(jax.random.key(0), jnp.arange(size)))
    cond: Any = jax.ShapeDtypeStruct((size,), jnp.int32 if config.model.num_classes else jnp.float32)
    if any(section.guidance):
        cond = jax.eval_shape(Guided, cond, jax.ShapeDtypeStruct((size,), jnp.float32))
    traced = jax.jit(draw, in_shardings=(whole, parts, parts)).trace(params, keys, cond)
    counted = flops.count(traced.jaxpr)
    calls = math.ceil(section.num_images / size) * len(section.guidance)
    return Program(traced, num_parameters(params), num_bytes(params), counted, counted, size, calls)


def num_bytes(tree: Any) -> int:
    """Bytes of a tree of shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def changed(config: ConfigDict, values: dict[str, Any]) -> ConfigDict:
    """A copy of a config with some fields set."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.update_from_flattened_dict(values)
    return copy


PROGRAMS: dict[str, Callable[[ConfigDict, list[Any]], Program]] = {"train": train, "sample": sample}
