"""SIGTERM handling: the current step ends, its state is saved, and the process exits with status 75."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

# EX_TEMPFAIL of sysexits.h: schedulers restart the job.
EXIT_STATUS = 75


class Preempted(Exception):
    """The run received SIGTERM and saved its state."""


def _nothing() -> None:
    """Do nothing: before the first step there is nothing to wait for."""


class Preemption:
    """Handles SIGTERM; `requested` is True after it.

    Python runs signal handlers between two bytecode instructions, which may be minutes away while XLA compiles.
    So the signal number is written to a pipe that a thread reads. Where nothing would be lost (before the first
    step, during evaluations), that thread ends the process immediately.
    """

    def __init__(self) -> None:
        self.requested = False
        self._leave: Callable[[], Any] | None = _nothing
        self._installed = threading.current_thread() is threading.main_thread()
        if not self._installed:
            return
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_handler = signal.signal(signal.SIGTERM, self._note)
        self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Set the flag; a Python handler must exist for the signal number to be written to the pipe."""
        self.requested = True

    def _watch(self) -> None:
        while received := os.read(self._reader, 1):
            if received[0] == signal.SIGTERM:
                self.requested = True
                self._leave_now()

    def _leave_now(self) -> None:
        leave = self._leave
        if leave is None:
            return
        status, message = EXIT_STATUS, "terminated; run the same command to resume from the last checkpoint, if any"
        try:
            leave()
        except BaseException as error:  # nothing else would end the process
            status, message = 1, f"terminated, and the last steps could not be saved: {error}"
        print(f"vdm_jax: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(status)

    def steps_begin(self) -> None:
        """Leave SIGTERM to the training loop, which checks `requested` between steps."""
        self._leave = None

    def steps_pause(self, wait: Callable[[], Any]) -> None:
        """Until `steps_begin`, let SIGTERM end the process once `wait`, which waits for the last save, returns."""
        self._leave = wait
        if self.requested:
            self._leave_now()

    def close(self) -> None:
        """Restore the previous handling of SIGTERM."""
        if not self._installed:
            return
        self._leave = None
        signal.set_wakeup_fd(self._old_wakeup)
        signal.signal(signal.SIGTERM, self._old_handler)
        os.close(self._writer)  # ends the thread
        self._thread.join()
        os.close(self._reader)
