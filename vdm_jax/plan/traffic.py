"""Bytes moved between a device's main memory and its cores, from compiled HLO.

Every instruction outside fusions reads its operands and writes its result once. A fusion that slices an operand
reads the slice, and one that updates a slice in place writes the slice: a scan reads one layer of stacked
parameters, not the stack. Arrays in on-chip memory (S(1) in their layout) are not counted. XLA's own figure
includes the body of a loop only once.
"""

from __future__ import annotations

from vdm_jax.plan.hlo import Computation, Instruction, Module, executions, size_of

# These move nothing, or the computations that they call are counted instead.
_NOTHING = (
    "parameter constant tuple get-tuple-element bitcast while conditional call call-start after-all async-start "
    "async-update async-done opt-barrier partition-id replica-id add-dependency domain"
)
_FREE = frozenset(_NOTHING.split())


def traffic(module: Module) -> int:
    """Return the bytes read and written per call on one device."""
    return sum(times * _moved(module, one, place) for one, place, times in executions(module))


def _moved(module: Module, one: Instruction, place: Computation) -> int:
    if one.opcode in _FREE or one.opcode.endswith("-done") or 'custom_call_target="AllocateBuffer"' in one.attributes:
        return 0
    if one.opcode == "fusion":
        body = module.computations.get(one.called("calls") or "", {})
        parameters = {int(i.arguments): i for i in body.values() if i.opcode == "parameter"}
        reads = sum(
            min(_slow(place, name), _read(module, body, parameters[number].name))
            for number, name in enumerate(one.operands)
            if number in parameters
        )
        root = next((i for i in body.values() if i.root), None)
        return reads + min(size_of(one.shape, True), _written(module, body, root) if root else 0)
    if one.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * size_of(one.shape, True)
    if one.opcode == "dynamic-update-slice":
        return 2 * _slow(place, one.operands[1])
    if one.opcode.endswith("-start"):  # its result contains its operands
        return 2 * sum(_slow(place, name) for name in one.operands)
    return size_of(one.shape, True) + sum(_slow(place, name) for name in one.operands)


def _slow(place: Computation, name: str) -> int:
    return size_of(place[name].shape, True) if name in place else 0


def _read(module: Module, body: Computation, name: str) -> int:
    """Return the bytes of a value of a fused computation that its users read."""
    total = 0
    full = size_of(body[name].shape)
    for user in body.values():
        if name not in user.operands:
            continue
        if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
            total += size_of(user.shape)
        elif user.opcode == "bitcast":
            total += _read(module, body, user.name)
        elif user.opcode == "fusion":
            inner = module.computations.get(user.called("calls") or "", {})
            numbers = [str(k) for k, operand in enumerate(user.operands) if operand == name]
            total += sum(
                _read(module, inner, i.name)
                for i in inner.values()
                if i.opcode == "parameter" and i.arguments in numbers
            )
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
            return full
    return min(total, full)


def _written(module: Module, body: Computation, root: Instruction) -> int:
    """Return the bytes of a fusion's result that it writes."""
    if root.opcode == "dynamic-update-slice":
        return size_of(body[root.operands[1]].shape)
    if root.opcode == "bitcast":
        return _written(module, body, body[root.operands[0]])
    if root.opcode == "tuple":
        return sum(_written(module, body, body[name]) for name in root.operands)
    if root.opcode == "fusion":
        inner = module.computations.get(root.called("calls") or "", {})
        last = next((i for i in inner.values() if i.root), None)
        return _written(module, inner, last) if last else size_of(root.shape)
    return size_of(root.shape)
