"""TPU slices by name, as 'v5e:4x8' or 'v4:2x2x4', and their devices on a machine that has none."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax

from vdm_jax.errors import UserError
from vdm_jax.fields import nearest
from vdm_jax.runtime.chips import TPUS, Chip

_LITE = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
SHAPES: dict[str, tuple[str, ...]] = {
    "v2": ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v3": ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32"),
    "v4": _CUBES,
    "v5e": _LITE,
    "v5p": _CUBES,
    "v6e": _LITE,
    "tpu7x": _CUBES,
}
# What libtpu calls them.
_NAMES = {"v5p": "v5"}
# Two cores of a chip that act as one device.
_MEGACORE = ("v4", "v5p")
# Else libtpu complains that it stands on no TPU machine.
_QUIET = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


class Slice(NamedTuple):
    """Chips joined by their interconnect: a chip and the sides of the torus or mesh."""

    chip: Chip
    sides: tuple[int, ...]

    @property
    def name(self) -> str:
        """'v5e:4x8'."""
        return f"{self.chip.name}:{'x'.join(map(str, self.sides))}"

    @property
    def chips(self) -> int:
        """How many."""
        return math.prod(self.sides)

    @property
    def hosts(self) -> int:
        """Machines that drive them, which is how many processes a job has."""
        return math.prod(-(-side // bound) for side, bound in zip(self.sides, self.host_bounds, strict=False))

    @property
    def host_bounds(self) -> tuple[int, int, int]:
        """Chips of one machine along each side: 2 × 2, and 2 × 4 where the whole slice is one machine of eight."""
        whole = self.chips == self.chip.per_host == 8
        sides = (*self.sides, 1, 1)
        return min(sides[0], 2), min(sides[1], 4 if whole else 2), 1

    @property
    def wraps(self) -> tuple[bool, ...]:
        """Which sides close to a ring: those of 16 in two dimensions, all sides of whole cubes in three."""
        if len(self.sides) == 2:
            full = 32 if self.chip.name == "v3" else 16
            return tuple(side == full for side in self.sides)
        return (all(side % 4 == 0 for side in self.sides),) * 3


def parse(name: str) -> Slice:
    """'v5e:16x16' → Slice; UserError with the nearest that exists."""
    kind, _, shape = name.strip().lower().partition(":")
    if kind not in TPUS:
        raise UserError(f"--topology={name!r} names no TPU; {nearest(kind, TPUS)}, as in --topology=v5e:2x4")
    known = SHAPES[kind]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise UserError(f"--topology={name!r} lacks the shape of the slice; for {kind}: {', '.join(known)}")
    sides = tuple(map(int, shape.split("x")))
    if shape not in known:
        best = min(known, key=lambda k: abs(math.log(math.prod(map(int, k.split("x"))) / math.prod(sides))))
        raise UserError(
            f"--topology={name!r} is no slice of {kind}; the nearest is '{kind}:{best}' of {', '.join(known)}"
        )
    return Slice(TPUS[kind], sides)


def prepare() -> None:
    """Settings under which libtpu describes chips that are not there; before the first use of JAX.

    It must not ask a cloud for its metadata, nor take the lock of a TPU that another process may hold,
    and JAX must compute on the CPU.
    """
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")


def devices(where: Slice) -> list[Any]:
    """The slice's devices, for which programs can be compiled and not run."""
    prepare()
    if importlib.util.find_spec("libtpu") is None and not os.environ.get("TPU_LIBRARY_PATH"):
        raise UserError("--mode=plan needs libtpu, which also works without a TPU: pip install 'vdm_jax[plan]'")
    from jax.experimental import topologies

    kind = _NAMES.get(where.chip.name, where.chip.name)
    description = topologies.get_topology_desc(
        platform="tpu",
        topology_name=f"{kind}:{'x'.join(map(str, where.sides))}",
        chip_config_name="megacore" if where.chip.name in _MEGACORE else "default",
        chips_per_host_bounds=where.host_bounds,
        num_slices=1,
        wrap=(*where.wraps, False)[:3],
    )
    return list(description.devices)
