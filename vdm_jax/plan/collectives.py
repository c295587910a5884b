"""Bytes that collectives move between devices, from compiled HLO."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from vdm_jax.plan.hlo import Computation, Instruction, Module, executions, size_of

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


class Collective(NamedTuple):
    """One collective.

    Attributes:
      kind: the opcode.
      payload: bytes of its operands on a device.
      group: the number of participating devices.
      times: the number of executions per call.
      name: the name of the instruction.
    """

    kind: str
    payload: int
    group: int
    times: int
    name: str

    @property
    def wire(self) -> float:
        """Bytes that a device sends per execution on a ring of n devices, for a payload b.

        2 (n − 1)/n · b for an all-reduce, (n − 1)/n · b for a reduce-scatter or all-to-all, and (n − 1) · b for an
        all-gather of shards of b bytes.
        """
        n = self.group
        factor = {
            "all-reduce": 2 * (n - 1) / n,
            "reduce-scatter": (n - 1) / n,
            "all-to-all": (n - 1) / n,
            "all-gather": float(n - 1),
        }.get(self.kind, 1.0)
        return factor * self.payload


def collectives(module: Module) -> list[Collective]:
    """Return all collectives of a module, including those inside fusions."""
    result = []
    for instruction, computation, times in executions(module):
        inside = [(instruction, computation)]
        if instruction.opcode == "fusion":
            inside = list(_fused(module, instruction))
        for inner, place in inside:
            kind = inner.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            payload = sum(size_of(place[name].shape, tiles=False) for name in inner.operands if name in place)
            # a TPU fuses an all-reduce with the slice that is kept, which is a reduce-scatter
            if kind == "all-reduce" and "all-reduce-scatter" in instruction.name:
                kind = "reduce-scatter"
            result.append(Collective(kind, payload, _group(inner, module.devices), times, inner.name))
    return result


def _fused(module: Module, fusion: Instruction) -> Iterator[tuple[Instruction, Computation]]:
    computation = module.computations.get(fusion.called("calls") or "", {})
    for instruction in computation.values():
        if instruction.opcode == "fusion":
            yield from _fused(module, instruction)
        else:
            yield instruction, computation


def _group(instruction: Instruction, devices: int) -> int:
    """Return the size of a group: '{{0,1},{2,3}}', '[2,4]<=[8]' (two groups of four), or all devices."""
    text = instruction.attributes
    shaped = re.search(r"replica_groups=\[(\d+),(\d+)\]", text)
    if shaped:
        return int(shaped[2])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    return len(listed[1].split(",")) if listed else max(devices, 1)


def by_kind(found: list[Collective]) -> dict[str, dict[str, float]]:
    """Return {kind: {count, payload_bytes, wire_bytes}} of one call, per device."""
    table: dict[str, dict[str, float]] = {}
    for one in found:
        row = table.setdefault(one.kind, {"count": 0, "payload_bytes": 0, "wire_bytes": 0.0})
        row["count"] += one.times
        row["payload_bytes"] += one.times * one.payload
        row["wire_bytes"] += one.times * one.wire
    return table
