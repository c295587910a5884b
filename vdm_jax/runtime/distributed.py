"""Start-up of multi-process jobs by `jax.distributed`, if the environment or a flag requires it."""

from __future__ import annotations

import glob
import importlib.util
import os

import jax

from vdm_jax.errors import UserError


def expected() -> bool:
    """Return whether the environment (of Slurm, Open MPI or GKE, as JAX reads it) indicates several processes."""
    environment = os.environ
    return (
        "JAX_COORDINATOR_ADDRESS" in environment
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
        or any("," in environment.get(name, "") for name in ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"))
        or ("SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS") or 1) > 1)
        or int(environment.get("OMPI_COMM_WORLD_SIZE") or 1) > 1
    )


def on_tpu() -> bool:
    """Return whether this machine has TPU chips and libtpu.

    On Cloud TPU VMs only the metadata server knows the other workers, and JAX queries it.
    """
    chips = [*glob.glob("/dev/accel*"), *glob.glob("/dev/vfio/[0-9]*")]
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def start(
    mode: str, coordinator: str | None, num_processes: int | None, process_id: int | None, heartbeat_seconds: int
) -> None:
    """Call `jax.distributed.initialize` if this process is one of several, before the first use of a device.

    On Cloud TPUs, Slurm and Open MPI JAX detects the other processes. Elsewhere all three flags are needed.

    Args:
      mode: 'auto', 'on' or 'off'.
      coordinator: host:port of process 0, or None.
      num_processes: the number of processes, or None.
      process_id: the index of this process, or None.
      heartbeat_seconds: the timeout after which a silent process counts as dead.

    Raises:
      UserError: the flags contradict each other, or the processes cannot connect.
    """
    flags = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(flags) and not all(flags):
        raise UserError("--coordinator, --num_processes and --process_id must be set together; set all three or none")
    if mode == "off":
        if any(flags):
            raise UserError("--distributed=off contradicts --coordinator; leave one of them out")
        return
    sure = mode == "on" or any(flags) or expected()
    if not (sure or on_tpu()):
        return
    # runtime.preemption handles SIGTERM; JAX's own handler would receive it first.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=heartbeat_seconds)
    except Exception as error:  # includes the absence of a metadata server
        if not sure:
            return
        raise UserError(
            f"the job of several processes cannot start ({' '.join(str(error).split())[:300]}); give every process "
            "--coordinator=host:port --num_processes=P --process_id=p, or --distributed=off"
        ) from error


def active() -> bool:
    """Return whether this process has joined others."""
    return jax.distributed.is_initialized()


def check() -> None:
    """Raise UserError if there are other processes that this one has not joined: a failure would leave them waiting."""
    count = jax.process_count()
    if count > 1 and not active():
        raise UserError(f"this is one of {count} processes, but it has not joined the others; use --distributed=on")


def first() -> bool:
    """Return whether this is process 0, which runs the coordinator; False if no backend can start."""
    try:
        return jax.process_index() == 0
    except (RuntimeError, AssertionError):
        return False
