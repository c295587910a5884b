"""Real processes on localhost that JAX joins into one job, for tests.

    with job(program(TEXT, 2), tmp_path) as running:     # or command_line([...], 2)
        running.processes[1].kill()
        first, second = running.wait(60)                  # Done(status, out, err)

    one, other = outputs(program(TEXT, 2), tmp_path)      # every process ends with 0, or the test fails

Whatever happens, no process outlives its `with` block.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
# Compiles in half the time.
FAST = "--xla_backend_optimization_level=0"

JOIN = """
import sys
import jax
jax.distributed.initialize("localhost:{port}", {count}, {index}, initialization_timeout=60,
                           heartbeat_timeout_seconds=20, shutdown_timeout_seconds=60)
assert jax.process_count() == {count}
"""


class Done(NamedTuple):
    """What a process left: exit status (negative for a signal), stdout, stderr."""

    status: int
    out: str
    err: str


class Job(NamedTuple):
    """Started processes; what they print goes to files, so that none waits for a reader."""

    processes: list[subprocess.Popen[bytes]]
    folder: pathlib.Path

    def output(self, index: int) -> Done:
        """What process `index` has printed so far; its status is 0 while it runs."""
        out, err = ((self.folder / f"{index}.{kind}").read_text(errors="replace") for kind in ("out", "err"))
        # Gloo's greeting, of which threads print one within another
        greeting = lambda line: line.startswith("[Gloo] ") or "connected peer ranks is" in line
        out = "".join(line for line in out.splitlines(True) if not greeting(line))
        return Done(self.processes[index].poll() or 0, out, err)

    def wait(self, timeout: float = 120, together: bool = False) -> list[Done]:
        """Wait until all have ended; together: fail as soon as one ends with another status than 0.

        AssertionError with what they said if they take longer than `timeout` seconds.
        """
        end = time.monotonic() + timeout
        while any(process.poll() is None for process in self.processes):
            if together and any(process.poll() for process in self.processes):
                time.sleep(1)  # the others may have the better reason
                break
            if time.monotonic() > end:
                raise AssertionError(f"still running after {timeout} s\n{self._said()}")
            time.sleep(0.02)
        if together and any(process.poll() != 0 for process in self.processes):
            raise AssertionError(f"a process failed\n{self._said()}")
        return [self.output(index) for index in range(len(self.processes))]

    def kill(self) -> None:
        """End them and what they started."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _said(self) -> str:
        told = [(index, process.poll(), self.output(index)) for index, process in enumerate(self.processes)]
        return "\n".join(
            f"--- process {index}, status {status}\n{done.out[-2000:]}\n{done.err[-4000:]}"
            for index, status, done in told
        )


@contextlib.contextmanager
def job(
    commands: Sequence[Sequence[str]],
    folder: os.PathLike[str],
    *,
    devices: int = 1,
    **environment: str,
) -> Iterator[Job]:
    """Start the commands at once, each with `devices` CPU devices, in `folder`, and kill what is left at the end."""
    folder = pathlib.Path(folder)
    logs = folder / f"logs-{time.monotonic_ns()}"
    logs.mkdir(parents=True)
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": FAST,
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    running = Job([], logs)
    try:
        for index, command in enumerate(commands):
            with (logs / f"{index}.out").open("wb") as out, (logs / f"{index}.err").open("wb") as err:
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env={**os.environ, **settings},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            running.processes.append(process)
        yield running
    finally:
        running.kill()


def outputs(
    commands: Sequence[Sequence[str]],
    folder: os.PathLike[str],
    *,
    timeout: float = 120,
    devices: int = 1,
    **environment: str,
) -> list[str]:
    """What each process printed on stdout; AssertionError unless all end with 0 in time."""
    with job(commands, folder, devices=devices, **environment) as running:
        return [done.out for done in running.wait(timeout, together=True)]


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def program(text: str, count: int, *arguments: str) -> list[list[str]]:
    """Commands that run a Python program in `count` processes of one JAX job; one process joins nothing."""
    port = free_port()
    joins = [JOIN.format(port=port, count=count, index=index) if count > 1 else "" for index in range(count)]
    return [[sys.executable, "-c", join + text, *arguments] for join in joins]


def command_line(arguments: Sequence[str], count: int) -> list[list[str]]:
    """Commands that run `python -m vdm_jax.main` in `count` processes of one job."""
    port = free_port()
    joins = [
        ["--distributed=on", f"--coordinator=localhost:{port}", f"--num_processes={count}", f"--process_id={index}"]
        for index in range(count)
    ]
    return [[sys.executable, "-m", "vdm_jax.main", *arguments, *(joins[i] if count > 1 else [])] for i in range(count)]
