"""Accelerators: peak speed, memory and links of each chip, with the source of each figure.

Rates are per second and sizes in bytes, both per chip; JAX treats some chips as two devices. Matrix rates
are without sparsity. `f32` is the rate of float32 at JAX's default precision: one bfloat16 pass on a TPU,
TF32 on an NVIDIA GPU that supports it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

GiB, GB = 2**30, 10**9


class Chip(NamedTuple):
    """One kind of accelerator.

    Attributes:
      name: the short name.
      bf16: peak FLOP/s in bfloat16.
      f32: peak FLOP/s in float32.
      memory: bytes of memory.
      bandwidth: bytes/s of the memory.
      link: bytes/s of one link of the interconnect, in one direction.
      links: the number of links.
      per_host: the number of chips per host.
      kinds: a pattern of JAX's device_kind.
      source: the source of the figures.
      devices: the number of JAX devices per chip.
      unverified: figures that were recalled and not read in the source.
    """

    name: str
    bf16: float
    f32: float
    memory: int
    bandwidth: float
    link: float
    links: int
    per_host: int
    kinds: str
    source: str
    devices: int = 1
    unverified: tuple[str, ...] = ()


_CLOUD = "docs.cloud.google.com/tpu/docs/"
_BOOK = "jax-ml.github.io/scaling-book/tpus"
_JAX = "jax/_src/pallas/mosaic/tpu_info.py (jax 0.10.2)"

TPUS = {
    chip.name: chip
    for chip in (
        Chip("v2", 46e12, 46e12, 16 * GiB, 700 * GB, 62e9, 4, 4, r"TPU v2", _JAX, 2, ("bandwidth", "link")),
        Chip("v3", 123e12, 123e12, 32 * GiB, 900 * GB, 82e9, 4, 4, r"TPU v3", _CLOUD + "v3", 2, ("link",)),
        Chip("v4", 275e12, 275e12, 32 * GiB, 1200 * GB, 45e9, 6, 4, r"TPU v4", f"{_CLOUD}v4; link: {_BOOK}"),
        Chip("v5e", 197e12, 197e12, 16 * GiB, 819 * GB, 50e9, 4, 8, r"TPU v5 ?(lite|e)", _CLOUD + "v5e"),
        Chip("v5p", 459e12, 459e12, 95 * GiB, 2765 * GB, 100e9, 6, 4, r"TPU v5p?", _CLOUD + "v5p"),
        Chip("v6e", 918e12, 918e12, 32 * GiB, 1638 * GB, 100e9, 4, 8, r"TPU v6 ?(lite|e)", _CLOUD + "v6e"),
        Chip("tpu7x", 2307e12, 2307e12, 192 * GiB, 7380 * GB, 100e9, 6, 4, r"TPU ?7x?", _CLOUD + "tpu7x", 2),
    )
}

_DATA_SHEET = "NVIDIA's data sheet"
GPUS = {
    chip.name: chip
    for chip in (
        # the tensor cores have no bfloat16, so it runs at the rate of float32
        Chip("V100", 15.7e12, 15.7e12, 16 * GiB, 900 * GB, 25e9, 6, 8, r".*V100.*", _DATA_SHEET),
        Chip("T4", 8.1e12, 8.1e12, 16 * GiB, 320 * GB, 0, 0, 1, r".*\bT4\b.*", _DATA_SHEET),
        Chip("A100 80GB", 312e12, 156e12, 80 * GB, 2039 * GB, 25e9, 12, 8, r".*A100.*80GB.*", _DATA_SHEET),
        Chip("A100", 312e12, 156e12, 40 * GB, 1555 * GB, 25e9, 12, 8, r".*A100.*", _DATA_SHEET),
        Chip("A10G", 70e12, 35e12, 24 * GB, 600 * GB, 0, 0, 1, r".*A10G.*", "AWS G5", 1, ("bf16", "f32")),
        Chip("L4", 121e12, 60e12, 24 * GB, 300 * GB, 0, 0, 1, r".*\bL4\b.*", _DATA_SHEET),
        Chip("H100 PCIe", 756e12, 378e12, 80 * GB, 2000 * GB, 0, 0, 8, r".*H100 PCIe.*", _DATA_SHEET),
        Chip("H100", 989e12, 494e12, 80 * GB, 3350 * GB, 25e9, 18, 8, r".*H100.*", _DATA_SHEET),
        Chip("H200", 989e12, 494e12, 141 * GB, 4800 * GB, 25e9, 18, 8, r".*H200.*", _DATA_SHEET),
        Chip("B200", 2250e12, 1125e12, 180 * GB, 8000 * GB, 50e9, 18, 8, r".*B200.*", _DATA_SHEET, 1, ("bf16", "f32")),
        Chip("RTX 4090", 165e12, 82.6e12, 24 * GB, 1008 * GB, 0, 0, 1, r".*4090.*", _DATA_SHEET, 1, ("bf16",)),
    )
}


def of_kind(device_kind: str) -> Chip | None:
    """Return the chip of a JAX `device.device_kind`, or None if it is not in the tables."""
    chips = (*TPUS.values(), *GPUS.values())
    return next((chip for chip in chips if re.fullmatch(chip.kinds, device_kind.strip())), None)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Return the peak FLOP/s of one JAX device in 'float32' or 'bfloat16', or None if it is unknown."""
    chip = of_kind(device_kind)
    return None if chip is None else rate(chip, dtype) / chip.devices


def rate(chip: Chip, dtype: str) -> float:
    """Return the peak FLOP/s of a chip for matrix products of a dtype."""
    return chip.bf16 if dtype in ("bfloat16", "float16") else chip.f32


def mfu(flops: float, seconds: float, devices: int, device_kind: str, dtype: str) -> float | None:
    """Return the model FLOPs utilization: `flops` of all devices over their peak in that time, None if unknown."""
    peak = peak_flops(device_kind, dtype)
    return None if peak is None else flops / (seconds * devices * peak)
