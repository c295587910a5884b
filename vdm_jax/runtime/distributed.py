"""One of several processes of a job: JAX's own start-up, where the environment or a flag asks for it."""

from __future__ import annotations

import glob
import importlib.util
import os

import jax

from vdm_jax.errors import UserError


def expected() -> bool:
    """Whether the environment says that this process is one of several (as JAX reads Slurm, Open MPI and GKE)."""
    environment = os.environ
    return (
        "JAX_COORDINATOR_ADDRESS" in environment
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
        or any("," in environment.get(name, "") for name in ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"))
        or ("SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS") or 1) > 1)
        or int(environment.get("OMPI_COMM_WORLD_SIZE") or 1) > 1
    )


def on_tpu() -> bool:
    """Whether this machine has TPU chips and their library: on Cloud TPU VMs only the metadata server knows the
    other workers, and JAX asks it."""
    chips = [*glob.glob("/dev/accel*"), *glob.glob("/dev/vfio/[0-9]*")]
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def start(
    mode: str, coordinator: str | None, num_processes: int | None, process_id: int | None, heartbeat_seconds: int
) -> None:
    """`jax.distributed.initialize`, before the first use of a device; mode: 'auto', 'on' or 'off'.

    JAX finds the others by itself on Cloud TPUs, Slurm and Open MPI. Elsewhere all three flags are needed.
    Raises UserError.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise UserError("--coordinator, --num_processes and --process_id go together; give all three or none")
    if mode == "off":
        if any(given):
            raise UserError("--distributed=off contradicts --coordinator; leave one of them out")
        return
    sure = mode == "on" or any(given) or expected()
    if not (sure or on_tpu()):
        return
    # SIGTERM is for runtime.preemption: JAX's own handler would take it first.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=heartbeat_seconds)
    except Exception as error:  # also what a metadata server's absence raises
        if not sure:
            return
        raise UserError(
            f"the job of several processes cannot start ({' '.join(str(error).split())[:300]}); give every process "
            "--coordinator=host:port --num_processes=P --process_id=p, or --distributed=off"
        ) from error


def active() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized()


def check() -> None:
    """UserError if JAX sees several processes that were not joined: their failures would leave the others waiting."""
    if jax.process_count() > 1 and not active():
        raise UserError(f"this is one of {jax.process_count()} processes, but it has not joined them; --distributed=on")


def first() -> bool:
    """Whether this is process 0, where the others' coordinator runs."""
    return jax.process_index() == 0
