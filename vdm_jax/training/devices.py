"""Devices, the mesh over them, and where things lie on it."""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vdm_jax.errors import UserError


def largest_divisor(batch: int, most: int) -> int:
    """The largest divisor of `batch` that is at most `most`."""
    return max(n for n in range(1, max(most, 1) + 1) if batch % n == 0)


def use_cpu_cores(batch: int) -> None:
    """Before the first use of JAX: start as many virtual CPU devices as cores can feed.

    XLA barely uses a second core within one device. Nothing happens on GPUs and TPUs, or where the
    number of devices is set already (XLA_FLAGS, JAX_NUM_CPU_DEVICES).
    """
    if (
        "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
        or getattr(jax.config, "jax_num_cpu_devices", 0) > 0
    ):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", largest_divisor(batch, min(cores, 8)))


def data_mesh(batch: int) -> Mesh:
    """A mesh with one axis, 'data', over all devices; they must divide the global batch."""
    count = jax.device_count()
    if batch % count:
        suggestion = max(batch // count, 1) * count
        raise UserError(f"config.data.batch_size={batch} must be divisible by the {count} devices; try {suggestion}")
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis over 'data'."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """This process's rows of a global batch → one global array per field, split over the devices."""
    sharding = split(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, np.asarray(v)) for k, v in batch.items()}


def round_up(size: int, mesh: Mesh) -> int:
    """A batch size that the devices divide, at least `size`."""
    return -(-size // mesh.size) * mesh.size
