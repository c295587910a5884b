"""SIGTERM and Ctrl-C: the current step ends, its state is saved, and the process exits with status 75 or 130.

A second Ctrl-C ends the process at once. In an interactive session Ctrl-C stays a KeyboardInterrupt.
"""

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
INTERRUPTED = 128 + signal.SIGINT  # as shells report it
_WORDS = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}


class Preempted(Exception):
    """The run received SIGTERM or Ctrl-C and saved its state.

    Attributes:
      status: the exit status of the process.
    """

    def __init__(self, message: str, status: int = EXIT_STATUS) -> None:
        super().__init__(message)
        self.status = status


def _interactive() -> bool:
    """Return whether Python runs in a terminal session or a notebook, which must survive Ctrl-C."""
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules


def _nothing() -> None:
    """Do nothing: before the first step there is nothing to wait for."""


class Preemption:
    """Handles SIGTERM and Ctrl-C; `requested` is True after one of them.

    Python runs signal handlers between two bytecode instructions, which may be minutes away while XLA compiles.
    So the signal number is written to a pipe that a thread reads. Where nothing would be lost (before the first
    step, during evaluations), that thread ends the process immediately.
    """

    def __init__(self) -> None:
        self.requested = False
        self._signal = signal.SIGTERM  # the first that was received
        self._interrupts = 0
        self._leave: Callable[[], Any] | None = _nothing
        self._installed = threading.current_thread() is threading.main_thread()
        if not self._installed:
            return
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        handled = (signal.SIGTERM,) if _interactive() else (signal.SIGTERM, signal.SIGINT)
        self._old_handlers = {number: signal.signal(number, self._note) for number in handled}
        self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Do nothing: a Python handler must exist for the signal number to be written to the pipe."""

    def _watch(self) -> None:
        while received := os.read(self._reader, 1):
            number = signal.Signals(received[0])
            if number not in self._old_handlers:
                continue
            self._interrupts += number == signal.SIGINT
            if self._interrupts > 1:
                self._exit(INTERRUPTED, "interrupted twice; run the same command to resume from the last checkpoint")
            if not self.requested:
                self._signal = number
            self.requested = True
            if self._leave is None and number == signal.SIGINT:
                print("vdm_jax: saving after this step; Ctrl-C again ends at once", file=sys.stderr, flush=True)
            self._leave_now()

    def _leave_now(self) -> None:
        leave = self._leave
        if leave is None:
            return
        status, message = self.status, f"{self.word}; run the same command to resume from the last checkpoint, if any"
        try:
            leave()
        except BaseException as error:  # nothing else would end the process
            status, message = 1, f"{self.word}, and the last steps could not be saved: {error}"
        self._exit(status, message)

    def _exit(self, status: int, message: str) -> None:
        print(f"vdm_jax: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(status)

    @property
    def word(self) -> str:
        """What happened to the run: 'terminated' or 'interrupted'."""
        return _WORDS[self._signal]

    @property
    def status(self) -> int:
        """The exit status that belongs to it."""
        return INTERRUPTED if self._signal == signal.SIGINT else EXIT_STATUS

    def steps_begin(self) -> None:
        """Leave the signal to the training loop, which checks `requested` between steps."""
        self._leave = None

    def steps_pause(self, wait: Callable[[], Any]) -> None:
        """Until `steps_begin`, let a signal end the process once `wait`, which waits for the last save, returns."""
        self._leave = wait
        if self.requested:
            self._leave_now()

    def close(self) -> None:
        """Restore the previous handling of the signals."""
        if not self._installed:
            return
        self._leave = None
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        os.close(self._writer)  # ends the thread
        self._thread.join()
        os.close(self._reader)
