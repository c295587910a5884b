"""The programs of a config, the train step and the sampler, traced for devices that may not exist."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vdm_jax import conditioning, methods
from vdm_jax.conditioning import Guided
from vdm_jax.errors import UserError
from vdm_jax.frozen import classifier_of
from vdm_jax.keys import example_keys
from vdm_jax.methods import classifier_guidance
from vdm_jax.plan import flops
from vdm_jax.plan.flops import Flops
from vdm_jax.runtime import devices
from vdm_jax.training.program import abstract_batch, check_parallelism, functions
from vdm_jax.training.state import num_parameters
from vdm_jax.training.step import frozen_like

# The number of steps over which the share of each variant is counted.
PERIOD = 10_000


class Program(NamedTuple):
    """A traced program and its costs.

    Attributes:
      traced: the traced function of jax.jit, ready to be lowered and compiled.
      parameters: the number of parameters.
      weights: bytes of parameters, averages and optimizer state.
      executed: the operations of a call; the average over variants.
      model: the same without rematerialization.
      examples: the number of examples per call.
      calls: the number of calls of a run.
      variants: if steps differ (lazy R1), the share and the model FLOPs of each variant; `traced` is the most
        expensive one.
    """

    traced: Any
    parameters: int
    weights: int
    executed: Flops
    model: Flops
    examples: int
    calls: int
    variants: tuple[tuple[float, int], ...] = ()


def train(config: ConfigDict, chips: list[Any]) -> Program:
    """Trace one train step."""
    config = changed(config, {"training.parallelism": "jit"})
    kinds = Counter(map(methods.build(config).variant, range(min(config.training.num_steps, PERIOD))))
    shares = [number / kinds.total() for number in kinds.values()]
    steps, state = _steps(config, chips, kinds)
    executed = model = [flops.count(step.jaxpr) for step in steps]
    if config.model.get("remat", "none") != "none":
        plain, _ = _steps(changed(config, {"model.remat": "none"}), chips, kinds)
        model = [flops.count(step.jaxpr) for step in plain]
    most = max(range(len(steps)), key=lambda k: executed[k].total)
    return Program(
        steps[most],
        num_parameters(state.params),
        num_bytes(state),
        flops.average(executed, shares),
        flops.average(model, shares),
        config.data.batch_size,
        config.training.num_steps,
        tuple(zip(shares, (flop.total for flop in model), strict=True)) if len(steps) > 1 else (),
    )


def _steps(config: ConfigDict, chips: list[Any], variants: Iterable[Hashable]) -> tuple[list[Any], Any]:
    """Return (the traced step of each variant, the abstract state)."""
    mesh = devices.make_mesh(config.data.batch_size, config.training.fsdp, chips)
    check_parallelism(config, mesh)
    method = methods.build(config)
    program = functions(config, method, mesh)
    steps: list[Any] = [program.variants(variant) for variant in variants]  # of jax.jit
    batch = abstract_batch(config, method)
    return [step.trace(program.abstract, (batch,), None, *program.frozen) for step in steps], program.abstract


def sample(config: ConfigDict, chips: list[Any]) -> Program:
    """Trace one batch of `--mode=sample`.

    Raises:
      UserError: the method or its sampler cannot be planned.
    """
    section, classifier = config.sampling, classifier_of(config)
    method = methods.build(config) if classifier is None else classifier_guidance.build(config, classifier)
    if method.sample is None:
        raise UserError(f"config.method={config.method!r} draws no samples; plan its training")
    if section.sampler == "adaptive":
        raise UserError(
            "config.sampling.sampler='adaptive' has a number of steps that depends on the weights; "
            "plan 'heun' with config.sampling.num_steps set to half the evaluations that you expect"
        )
    mesh = devices.make_mesh(len(chips), devices=chips)
    size = devices.round_up(min(section.batch_size, section.num_images), mesh)
    replicated, parts = devices.replicated(mesh), devices.split(mesh)
    draw = partial(method.sample, num_steps=section.num_steps)
    params = jax.eval_shape(method.init, jax.random.key(0))
    params |= jax.eval_shape(lambda: frozen_like(method))
    keys = jax.eval_shape(lambda: example_keys(jax.random.key(0), jnp.arange(size)))
    cond: Any = conditioning.specs_of_values(method.conditions, size)
    guidance = section.get("guidance", (0.0,))
    if any(guidance):
        weight: Any = jax.ShapeDtypeStruct((size,), jnp.float32)
        cond = Guided(cond, {c.name: weight for c in method.conditions if c.guidable})
    traced = jax.jit(draw, in_shardings=(replicated, parts, parts)).trace(params, keys, cond)
    counted = flops.count(traced.jaxpr)
    calls = math.ceil(section.num_images / size) * len(guidance)
    return Program(traced, num_parameters(params), num_bytes(params), counted, counted, size, calls)


def num_bytes(tree: Any) -> int:
    """Return the bytes of a pytree of abstract arrays."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def changed(config: ConfigDict, values: dict[str, Any]) -> ConfigDict:
    """Return a copy of a config with some fields changed."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.update_from_flattened_dict(values)
    return copy


PROGRAMS: dict[str, Callable[[ConfigDict, list[Any]], Program]] = {"train": train, "sample": sample}
