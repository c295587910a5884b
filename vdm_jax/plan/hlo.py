"""A parser of compiled HLO text: computations, instructions, shapes and execution counts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple


class Instruction(NamedTuple):
    """An instruction `name = shape opcode(arguments), attributes`."""

    name: str
    shape: str
    opcode: str
    arguments: str
    attributes: str
    root: bool

    @property
    def operands(self) -> list[str]:
        """Names of the operands in the same computation."""
        return _OPERAND.findall(self.arguments)

    def called(self, attribute: str) -> str | None:
        """Return the computation that `attribute` names, such as `body` of a while."""
        match = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return match[1] if match else None


Computation = dict[str, Instruction]


class Module(NamedTuple):
    """An HLO module.

    Attributes:
      computations: computations by name, each with its instructions in order.
      entry: the name of the entry computation.
      devices: partitions × replicas.
    """

    computations: dict[str, Computation]
    entry: str
    devices: int


class Execution(NamedTuple):
    """An instruction outside fusions, its computation, and the number of its executions per call."""

    instruction: Instruction
    computation: Computation
    times: int


_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+)[ (].*\{$")
_ASSIGNMENT = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPERAND = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"?known_trip_count"?:\s*\{"?n"?:"?(\d+)')
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_BITS = re.compile(r"[a-z]+(\d+)")


def parse(text: str) -> Module:
    """Parse the output of `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line[:1].isspace():
            instruction = _instruction(line) if current is not None else None
            if instruction is not None and current is not None:
                current[instruction.name] = instruction
            continue
        header = None if line.startswith("HloModule") else _HEADER.match(line)
        if header:
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
    first = text.split("\n", 1)[0]
    counts = [re.search(rf"\b{name}=(\d+)", first) for name in ("num_partitions", "replica_count")]
    return Module(computations, entry, math.prod(int(c[1]) for c in counts if c))


def _instruction(line: str) -> Instruction | None:
    start = _ASSIGNMENT.match(line)
    if start is None:
        return None
    rest = line[start.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    return Instruction(
        start[2], shape, rest[:opening], rest[opening + 1 : closing], rest[closing + 1 :], bool(start[1])
    )


def _closing(text: str, opening: int) -> int:
    """Return the position of the parenthesis that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"a parenthesis is not closed in {text[:80]!r}")


def size_of(shape: str, slow_only: bool = False, tiles: bool = True) -> int:
    """Return the bytes of a shape; elements of a tuple are summed.

    Args:
      shape: the shape as HLO text.
      slow_only: exclude arrays in on-chip memory, which have S(1) or higher in their layout.
      tiles: include the padding of TPU tiles.
    """
    total = 0
    for dtype, dimensions, layout in _ARRAY.findall(shape):
        if slow_only and re.search(r"S\([1-9]\d*\)", layout):
            continue
        sizes = [int(d.lstrip("<=")) for d in dimensions.split(",") if d]
        stored = _padded(sizes, layout) if tiles else sizes
        total += math.ceil(math.prod(stored) * _item_bits(dtype) / 8)
    return total


def _item_bits(dtype: str) -> int:
    if dtype == "pred":
        return 8
    match = _BITS.match(dtype)
    return int(match[1]) if match else 0  # tokens and opaque values


def _padded(sizes: list[int], layout: str) -> list[int]:
    """Round sizes up to the outermost tile; '1,0:T(8,128)' rounds the two most minor axes."""
    order, _, rest = layout.partition(":")
    tile = re.search(r"T\(([\d,]+)\)", rest)
    if tile is None or not sizes:
        return sizes
    tiles = [int(t) for t in tile[1].split(",")]
    minor = [int(d) for d in order.split(",") if d]
    sizes = list(sizes)
    for axis, multiple in zip(minor, reversed(tiles), strict=False):
        sizes[axis] = -(-sizes[axis] // multiple) * multiple
    return sizes


def executions(module: Module) -> Iterator[Execution]:
    """Yield every executed instruction; counts include trip counts of loops, and fusions are not entered."""
    pending = [(module.entry, 1)]
    while pending:
        name, times = pending.pop()
        computation = module.computations.get(name, {})
        for instruction in computation.values():
            yield Execution(instruction, computation, times)
            for called, inner in _called(module, instruction):
                pending.append((called, times * inner))


def _called(module: Module, instruction: Instruction) -> Iterator[tuple[str, int]]:
    if instruction.opcode == "while":
        trips = trip_count(module, instruction) or 1
        yield from ((n, trips) for a in ("body", "condition") if (n := instruction.called(a)))
    elif instruction.opcode in ("call", "call-start", "async-start"):  # asynchronous ones run in parallel to the cores
        yield from ((n, 1) for a in ("to_apply", "calls") if (n := instruction.called(a)))
    elif instruction.opcode == "conditional":
        branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
        yield from ((n, 1) for n in (_OPERAND.findall(branches[1]) if branches else []))
        yield from ((n, 1) for a in ("true_computation", "false_computation") if (n := instruction.called(a)))


def trip_count(module: Module, loop: Instruction) -> int | None:
    """Return the trip count of a while: the compiler's annotation, or the bound n of a condition `i < n`."""
    noted = _TRIPS.search(loop.attributes)
    if noted:
        return int(noted[1])
    condition = module.computations.get(loop.called("condition") or "", {})
    root = next((i for i in condition.values() if i.root), None)
    if root is None or root.opcode != "compare" or "direction=LT" not in root.attributes:
        return None
    bounds = [condition[o] for o in root.operands if condition[o].opcode == "constant"]
    return int(bounds[0].arguments) if len(bounds) == 1 else None


def unknown_loops(module: Module) -> int:
    """Return the number of while loops of unknown trip count, whose body is counted once."""
    loops = (e.instruction for e in executions(module) if e.instruction.opcode == "while")
    return sum(trip_count(module, loop) is None for loop in loops)
