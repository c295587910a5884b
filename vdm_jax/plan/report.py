"""Compile a config for a slice, estimate its memory and cost, and write plan.json."""

from __future__ import annotations

import time
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from vdm_jax.errors import UserError
from vdm_jax.fields import nearest
from vdm_jax.plan import advice, hlo, memory, roofline, topology
from vdm_jax.plan.collectives import by_kind, collectives
from vdm_jax.plan.memory import Memory
from vdm_jax.plan.programs import PROGRAMS, Program
from vdm_jax.plan.table import table
from vdm_jax.plan.topology import Slice
from vdm_jax.plan.traffic import traffic
from vdm_jax.runtime.workdir import write_json

# Code generation is 90% of the compile time. It is several times faster if an instruction may use 6 MiB of on-chip
# memory instead of 16; the memory of a program changes by a few percent.
QUICK = {"xla_tpu_scoped_vmem_limit_kib": "6144"}


def run(config: ConfigDict, directory: epath.Path | None, topology_name: str, what: str = "train") -> dict[str, Any]:
    """Plan a checked config on a TPU slice and print a table; neither data nor a TPU is needed.

    Args:
      config: the config.
      directory: where plan.json is written, or None.
      topology_name: the slice, such as 'v5e:16x16'.
      what: 'train' or 'sample'.

    Returns:
      The content of plan.json.

    Raises:
      UserError: the topology or `what` is unknown, or libtpu is not installed.
    """
    result = plan(config, topology_name, what)
    print(table(result), flush=True)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "plan.json", result)
        print(f"written: {directory / 'plan.json'}", flush=True)
    return result


def plan(config: ConfigDict, topology_name: str, what: str = "train") -> dict[str, Any]:
    """Return the content of plan.json; see `describe` for its fields."""
    if what not in PROGRAMS:
        raise UserError(f"unknown --plan={what}; {nearest(what, PROGRAMS)}")
    where = topology.parse(topology_name)
    chips = topology.devices(where)
    began = time.monotonic()
    program = PROGRAMS[what](config, chips)
    traced = time.monotonic()
    module, used = compiled(program)
    seconds = {"trace_seconds": traced - began, "compile_seconds": time.monotonic() - traced}
    return {**describe(config, where, what, program, module, used), **seconds}


def compiled(program: Program) -> tuple[hlo.Module | None, Memory]:
    """Return (the compiled program, its memory); the program is None if it does not fit."""
    try:
        executable = _compile(program.traced.lower())
    except jax.errors.JaxRuntimeError as error:
        used = memory.of_error(str(error))
        if used is None:
            raise
        return None, used
    return hlo.parse(executable.as_text()), memory.of_compiled(executable)


def _compile(lowered: Any) -> Any:
    try:
        return lowered.compile(compiler_options=QUICK)
    except jax.errors.JaxRuntimeError as error:
        if not memory.too_narrow(str(error)):
            raise
    return lowered.compile()


def describe(
    config: ConfigDict, where: Slice, what: str, program: Program, module: hlo.Module | None, used: Memory
) -> dict[str, Any]:
    """Return all numbers of a plan; FLOPs are per call over all chips, bytes are per JAX device."""
    chip = where.chip
    available = used.available or chip.memory // chip.devices
    weights = program.weights // (config.training.fsdp if what == "train" else 1)
    if module is None and used.temporary:  # the compiler reported only temporaries
        used = used._replace(arguments=weights, total=used.temporary + weights)
    fits = module is not None and used.total <= available * (1 - memory.RESERVED)
    result: dict[str, Any] = {
        "what": what,
        "dataset": config.data.name,
        "topology": where.name,
        "chips": where.chips,
        "hosts": where.hosts,
        "devices": where.chips * chip.devices,
        "parameters": program.parameters,
        "examples_per_call": program.examples,
        "calls": program.calls,
        "model_flops": program.model.total,
        "executed_flops": program.executed.matrix,
        "elementwise_flops": program.executed.elementwise,
        "fits": fits,
        "memory_bytes": {**used._asdict(), "available": available},
        "chip": {**chip._asdict(), "unverified": list(chip.unverified)},
        "assumptions": list(roofline.ASSUMPTIONS),
    }
    if program.variants:
        result["variants"] = [{"share": share, "model_flops": work} for share, work in program.variants]
    if not fits:
        result["advice"] = advice.when_too_big(config, where, what, weights, used.total, available)
    if module is not None:
        result.update(_costs(where, program, module))
    return result


def _costs(where: Slice, program: Program, module: hlo.Module) -> dict[str, Any]:
    kinds, moved = by_kind(collectives(module)), traffic(module)
    wire = sum(row["wire_bytes"] for row in kinds.values())
    estimate = roofline.estimate(where, program.executed.matrix, moved, wire)
    devices = where.chips * where.chip.devices
    hours = estimate.total * program.calls / 3600
    return {
        "collectives": kinds,
        "collective_bytes": wire,
        "memory_traffic_bytes": moved,
        "flops_per_byte": program.executed.total / devices / max(moved, 1),
        "seconds_per_call": {**estimate._asdict(), "bound": estimate.bound},
        "examples_per_second": program.examples / estimate.total,
        "hours": hours,
        "chip_hours": hours * where.chips,
        "unknown_loops": program.executed.unknown_loops + hlo.unknown_loops(module),
    }
