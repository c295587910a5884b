"""Advice on the settings to change if a program does not fit in a chip's memory."""

from __future__ import annotations

import math

from ml_collections import ConfigDict

from vdm_jax.fields import value
from vdm_jax.plan.topology import Slice


def when_too_big(config: ConfigDict, where: Slice, what: str, state: int, total: int, available: int) -> list[str]:
    """Return settings in the order in which to try them.

    Args:
      config: the config.
      where: the slice.
      what: 'train' or 'sample'.
      state: bytes of the weights on a device.
      total: bytes of the program on a device.
      available: bytes of a device's memory.
    """
    if what == "sample":
        size = max(config.sampling.batch_size // max(math.ceil(total / available), 2), 1)
        return [f"--config.sampling.batch_size={size}", *_precision(config)]
    devices = where.chips * where.chip.devices
    rows = config.data.batch_size // devices
    settings = []
    if state > available / 3 and config.training.fsdp < devices:
        settings.append(f"--config.training.fsdp={_fsdp(config.training.fsdp, devices, state, available)}")
    if value(config, "model.remat", "full") != "full":
        settings.append("--config.model.remat=full")
    settings += _precision(config)
    needed = max(math.ceil((total - state) / max(available - state, available // 8)), 2)
    accumulate = config.training.accumulate
    larger = [a for a in range(accumulate + 1, rows + 1) if rows % a == 0 and a >= accumulate * needed]
    if larger:
        settings.append(f"--config.training.accumulate={larger[0]}")
    settings.append(f"a slice of more than {where.chips} chips" if rows > 1 else "a chip with more memory")
    return settings


def _precision(config: ConfigDict) -> list[str]:
    return ["--config.model.dtype=bfloat16"] if config.model.dtype != "bfloat16" else []


def _fsdp(now: int, devices: int, state: int, available: int) -> int:
    """Return the smallest divisor of the devices for which the state takes at most a quarter of the memory."""
    larger = [f for f in range(now + 1, devices + 1) if devices % f == 0]
    return next((f for f in larger if state * now / f <= available / 4), larger[-1])
