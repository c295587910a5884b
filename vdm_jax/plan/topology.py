"""TPU slices by name, such as 'v5e:4x8' or 'v4:2x2x4', and their devices on a machine without a TPU."""

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
# Names in libtpu.
_NAMES = {"v5p": "v5"}
# Chips whose two cores act as one device.
_MEGACORE = ("v4", "v5p")
# Without these libtpu logs that the machine has no TPU.
_QUIET = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


class Slice(NamedTuple):
    """Chips joined by their interconnect: the kind of chip and the sides of the torus or mesh."""

    chip: Chip
    sides: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the slice, such as 'v5e:4x8'."""
        return f"{self.chip.name}:{'x'.join(map(str, self.sides))}"

    @property
    def chips(self) -> int:
        """The number of chips."""
        return math.prod(self.sides)

    @property
    def hosts(self) -> int:
        """The number of hosts, which is the number of processes of a job."""
        return math.prod(-(-side // bound) for side, bound in zip(self.sides, self.host_bounds, strict=False))

    @property
    def host_bounds(self) -> tuple[int, int, int]:
        """Chips of one host along each side: 2 × 4 if the slice is a single host with eight chips, else 2 × 2."""
        single = self.chips == self.chip.per_host == 8
        sides = (*self.sides, 1, 1)
        return min(sides[0], 2), min(sides[1], 4 if single else 2), 1

    @property
    def wraps(self) -> tuple[bool, ...]:
        """Whether each side closes to a ring: sides of 16 (v3: 32) in two dimensions, all sides of 4 k in three."""
        if len(self.sides) == 2:
            full = 32 if self.chip.name == "v3" else 16
            return tuple(side == full for side in self.sides)
        return (all(side % 4 == 0 for side in self.sides),) * 3


def parse(name: str) -> Slice:
    """Parse a name such as 'v5e:16x16'; raise UserError with the nearest slice if it does not exist."""
    kind, _, shape = name.strip().lower().partition(":")
    if kind not in TPUS:
        raise UserError(f"--topology={name!r} is not a TPU; {nearest(kind, TPUS)}, as in --topology=v5e:2x4")
    known = SHAPES[kind]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise UserError(f"--topology={name!r} lacks the shape of the slice; for {kind}: {', '.join(known)}")
    sides = tuple(map(int, shape.split("x")))
    if shape not in known:
        best = min(known, key=lambda k: abs(math.log(math.prod(map(int, k.split("x"))) / math.prod(sides))))
        raise UserError(
            f"--topology={name!r} is not a slice of {kind}; the nearest is '{kind}:{best}' of {', '.join(known)}"
        )
    return Slice(TPUS[kind], sides)


def prepare() -> None:
    """Configure libtpu to describe chips that are not present; call this before the first use of JAX.

    libtpu must not query cloud metadata or take the lock of a TPU that another process may hold, and JAX must
    compute on the CPU.
    """
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")


def devices(where: Slice) -> list[Any]:
    """Return the devices of a slice, for which programs can be compiled but not run.

    Raises:
      UserError: libtpu is not installed.
    """
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
