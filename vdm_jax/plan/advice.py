"""Which setting to change when a program does not fit a chip's memory."""

from __future__ import annotations

import math

from ml_collections import ConfigDict

from vdm_jax.fields import value
from vdm_jax.plan.topology import Slice


def when_too_big(config: ConfigDict, where: Slice, what: str, state: int, total: int, available: int) -> list[str]:
    """Settings in the order to try them. state: bytes of weights on a device; total, available: of the program."""
    if what == "sample":
        size = max(config.sampling.batch_size // max(math.ceil(total / available), 2), 1)
        return [f"--config.sampling.batch_size={size}", *_precision(config)]
    devices = where.chips * where.chip.devices
    rows = config.data.batch_size // devices
    found = []
    if state > available / 3 and config.training.fsdp < devices:
        found.append(f"--config.training.fsdp={_fsdp(config.training.fsdp, devices, state, available)}")
    if value(config, "model.remat", "full") != "full":
        found.append("--config.model.remat=full")
    found += _precision(config)
    wanted = max(math.ceil((total - state) / max(available - state, available // 8)), 2)
    accumulate = config.training.accumulate
    larger = [a for a in range(accumulate + 1, rows + 1) if rows % a == 0 and a >= accumulate * wanted]
    if larger:
        found.append(f"--config.training.accumulate={larger[0]}")
    found.append(f"a slice of more than {where.chips} chips" if rows > 1 else "a chip with more memory")
    return found


def _precision(config: ConfigDict) -> list[str]:
    return ["--config.model.dtype=bfloat16"] if config.model.dtype != "bfloat16" else []


def _fsdp(now: int, devices: int, state: int, available: int) -> int:
    """The smallest divisor of the devices that leaves the state a quarter of the memory."""
    larger = [f for f in range(now + 1, devices + 1) if devices % f == 0]
    return next((f for f in larger if state * now / f <= available / 4), larger[-1])
