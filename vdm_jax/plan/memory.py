"""Memory of a compiled program on one device, from the executable or from the compiler's error."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

# The share of memory reserved by the runtime: 15.75 GiB of the 16 of a v5e are available to programs.
RESERVED = 0.02
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"
# Messages of libtpu 0.0.42 and of other versions.
_TEMPORARIES = re.compile(rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)")
_USED = re.compile(rf"Used {_SIZE} of {_SIZE} hbm", re.IGNORECASE)
_EXHAUSTED = "RESOURCE_EXHAUSTED"


class Memory(NamedTuple):
    """Bytes on one device.

    Attributes:
      arguments: state and batch.
      outputs: outputs that do not share memory with arguments.
      temporary: activations and other temporaries.
      code: the program.
      total: the sum.
      available: the memory available to the compiler, if it was reported.
    """

    arguments: int
    outputs: int
    temporary: int
    code: int
    total: int
    available: int | None = None


def of_compiled(compiled: Any) -> Memory:
    """Return the memory of a compiled program."""
    analysis = compiled.memory_analysis()
    arguments, temporary = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    outputs = max(analysis.output_size_in_bytes - analysis.alias_size_in_bytes, 0)
    code = analysis.generated_code_size_in_bytes
    return Memory(arguments, outputs, temporary, code, arguments + outputs + temporary + code)


def of_error(message: str) -> Memory | None:
    """Return the memory of a program that does not fit; None if the compiler failed for another reason."""
    if _EXHAUSTED not in message or too_narrow(message):
        return None
    reported = _TEMPORARIES.search(message) or _USED.search(message)
    if reported is None:
        return Memory(0, 0, 0, 0, 0)
    used, available = (round(float(reported[k]) * _UNITS[reported[k + 1].upper()]) for k in (1, 3))
    return Memory(0, 0, used if reported.re is _TEMPORARIES else 0, 0, used, available)


def too_narrow(message: str) -> bool:
    """Return whether the compiler ran out of on-chip memory (VMEM) for an instruction."""
    return _EXHAUSTED in message and "memory space vmem" in message
