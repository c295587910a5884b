"""How long a call takes if it is as fast as the chip's rates allow, under stated assumptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vdm_jax.plan.topology import Slice
from vdm_jax.runtime.chips import rate

# The share of peak that dots and convolutions of a U-Net reach: not measured, 30–50 % is what is told of such nets.
MATRIX_SHARE = 0.5

ASSUMPTIONS = (
    f"dots and convolutions run at {MATRIX_SHARE:.0%} of the chip's peak, so MFU is at most that",
    "every instruction of the compiled program reads and writes memory once at the full bandwidth",
    "memory and matrix units overlap perfectly; collectives overlap with nothing",
    "collectives use both directions of one ring of links; their latency is not counted",
    "compiled with less on-chip memory an instruction than to run, which takes minutes less: the program's memory "
    "may differ by a few percent",
    "the runtime keeps 2% of the memory for itself",
    "input arrives in time; logging, checkpoints and evaluations are free",
)


class Estimate(NamedTuple):
    """Seconds of a call. compute, memory, links: of each alone; total: max(compute, memory) + links;
    floor: the longest of the three at full peak, which nothing can beat."""

    compute: float
    memory: float
    links: float
    total: float
    floor: float

    @property
    def bound(self) -> str:
        """What the time goes to."""
        return max(("compute", "memory", "links"), key=lambda name: getattr(self, name))


def estimate(where: Slice, matrix: Mapping[str, float], traffic: float, wire: float) -> Estimate:
    """matrix: operations by dtype, all devices together; traffic: memory bytes, wire: bytes sent, of one device."""
    chip = where.chip
    peak = sum(flops / rate(chip, dtype) for dtype, flops in matrix.items()) / where.chips
    memory = traffic * chip.devices / chip.bandwidth
    links = wire / (2 * chip.link) if wire else 0.0
    compute = peak / MATRIX_SHARE
    return Estimate(compute, memory, links, max(compute, memory) + links, max(peak, memory, links))
