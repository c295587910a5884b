"""Devices, the device mesh, and shardings of batches and states."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vdm_jax.errors import UserError
from vdm_jax.networks.sharing import BATCH, DATA, FSDP, kernel_spec


def largest_divisor(batch: int, most: int) -> int:
    """Return the largest divisor of `batch` that is at most `most`."""
    return max(n for n in range(1, max(most, 1) + 1) if batch % n == 0)


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cpu_cores(batch: int) -> None:
    """Configure one virtual CPU device per core, up to 8; call this before the first use of JAX.

    XLA barely uses a second core within one device. This has no effect on GPUs and TPUs, in jobs of several
    processes, or if the number of devices is already set (XLA_FLAGS, JAX_NUM_CPU_DEVICES).
    """
    if (
        "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
        or getattr(jax.config, "jax_num_cpu_devices", 0) > 0
        or jax.distributed.is_initialized()
    ):
        return
    jax.config.update("jax_num_cpu_devices", largest_divisor(batch, min(usable_cores(), 8)))


def in_order(devices: Sequence[Any] | None = None) -> list[Any]:
    """Return all devices ordered by process, so that process p of P holds the p-th of P parts of a batch."""
    return sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))


def make_mesh(batch: int, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Return a mesh ('data', 'fsdp') over all devices.

    Args:
      batch: the size of the global batch, divisible by the number of devices.
      fsdp: the size of the axis 'fsdp', a divisor of the number of devices.
      devices: the devices; None for all.

    Raises:
      UserError: `batch` or `fsdp` does not fit the number of devices.
    """
    ordered = in_order(devices)
    count = len(ordered)
    if count % fsdp:
        raise UserError(
            f"config.training.fsdp={fsdp} must divide the {count} devices; try {largest_divisor(count, fsdp)}"
        )
    if batch % count:
        suggestion = max(batch // count, 1) * count
        raise UserError(f"config.data.batch_size={batch} must be divisible by the {count} devices; try {suggestion}")
    return Mesh(np.asarray(ordered).reshape(count // fsdp, fsdp), (DATA, FSDP), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that replicates an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits the first axis over all devices."""
    return NamedSharding(mesh, BATCH)


def state_shardings(mesh: Mesh, abstract: Any) -> Any:
    """Return the sharding of each leaf of a state: kernels, their averages and moments are split over 'fsdp'."""

    def place(path: Any, leaf: Any) -> NamedSharding:
        kernel = bool(path) and getattr(path[-1], "key", None) == "kernel" and leaf.ndim >= 2
        return NamedSharding(mesh, kernel_spec(leaf.shape, mesh.shape[FSDP]) if kernel else PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, abstract)


def under(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that the axes of the mesh are known while it is traced (see `networks.sharing`)."""

    @functools.wraps(function)
    def traced(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def put_batch(mesh: Mesh, batch: dict[str, Any]) -> dict[str, Any]:
    """Assemble this process's rows of a global batch into global arrays, split over the devices."""
    sharding = split(mesh)
    put = lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows))
    return cast(dict[str, Any], jax.tree.map(put, batch))


def put_state(state: Any, shardings: Any) -> Any:
    """Turn a state of which every process has a complete copy into global arrays."""
    if jax.process_count() == 1:
        return jax.device_put(state, shardings)
    make = lambda a, s: jax.make_array_from_callback(np.shape(a), s, lambda index: np.asarray(a)[index])
    return jax.tree.map(make, state, shardings)


def to_local(state: Any, mesh: Mesh) -> Any:
    """Turn a replicated global state into this process's copy, as required by `jax.pmap`."""
    if jax.process_count() == 1:
        return state
    return multihost_utils.global_array_to_host_local_array(state, mesh, PartitionSpec())


def to_global(state: Any, mesh: Mesh) -> Any:
    """Turn the result of `to_local` or `jax.pmap` into a replicated global state."""
    if jax.process_count() == 1:
        return jax.device_put(state, replicated(mesh))
    return multihost_utils.host_local_array_to_global_array(state, mesh, PartitionSpec())


def round_up(size: int, mesh: Mesh) -> int:
    """Return the smallest multiple of the number of devices that is at least `size`."""
    return -(-size // mesh.size) * mesh.size
