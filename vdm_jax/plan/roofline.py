"""A roofline estimate of the time of a call from the chip's rates, under stated assumptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vdm_jax.plan.topology import Slice
from vdm_jax.runtime.chips import rate

# The share of peak that dots and convolutions of a U-Net reach: not measured; 30–50% is commonly reported.
MATRIX_SHARE = 0.5

ASSUMPTIONS = (
    f"dots and convolutions run at {MATRIX_SHARE:.0%} of the chip's peak, so MFU is at most that",
    "every instruction of the compiled program reads and writes memory once at the full bandwidth",
    "memory and matrix units overlap perfectly; collectives overlap with nothing",
    "collectives use both directions of one ring of links; their latency is not counted",
    "compilation is sped up by a lower limit on on-chip memory per instruction: the program's memory may differ "
    "by a few percent",
    "the runtime keeps 2% of the memory for itself",
    "input arrives in time; logging, checkpoints and evaluations are free",
)


class Estimate(NamedTuple):
    """Estimated seconds of a call.

    Attributes:
      compute: the time of the matrix units alone.
      memory: the time of memory traffic alone.
      links: the time of collectives alone.
      total: max(compute, memory) + links.
      floor: the longest of the three at peak rates, a lower bound.
    """

    compute: float
    memory: float
    links: float
    total: float
    floor: float

    @property
    def bound(self) -> str:
        """The resource that takes the most time."""
        return max(("compute", "memory", "links"), key=lambda name: getattr(self, name))


def estimate(where: Slice, matrix: Mapping[str, float], traffic: float, wire: float) -> Estimate:
    """Estimate the time of a call.

    Args:
      where: the slice.
      matrix: matrix operations by dtype, summed over devices.
      traffic: bytes of memory traffic per device.
      wire: bytes sent per device.
    """
    chip = where.chip
    peak = sum(flops / rate(chip, dtype) for dtype, flops in matrix.items()) / where.chips
    memory = traffic * chip.devices / chip.bandwidth
    links = wire / (2 * chip.link) if wire else 0.0
    compute = peak / MATRIX_SHARE
    return Estimate(compute, memory, links, max(compute, memory) + links, max(peak, memory, links))
