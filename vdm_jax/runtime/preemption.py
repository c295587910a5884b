"""What SIGTERM does to a run: the step in flight ends, its state is saved, the process leaves with 75."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

# sysexits' EX_TEMPFAIL: schedulers take it for "start me again".
EXIT_STATUS = 75


class Preempted(Exception):
    """The run has saved what it had, because it was asked to stop."""


def _nothing() -> None:
    """Before the first step there is nothing to wait for."""


class Preemption:
    """`requested` after SIGTERM. Outside the steps the process leaves at once, from a thread of its own.

    Python handles signals between two of its own instructions, which may be minutes away while XLA
    compiles. So the signal's number goes down a pipe to a thread, and where nothing would be lost (before
    the first step, during evaluations) that thread ends the process itself.
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
        """A handler of Python's is what makes C's write the number to the pipe."""
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
        status, told = EXIT_STATUS, "terminated; the same command goes on from the last checkpoint, or starts again"
        try:
            leave()
        except BaseException as error:  # nothing else would end the process
            status, told = 1, f"terminated, and what was trained last is not saved: {error}"
        print(f"vdm_jax: {told}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(status)

    def steps_begin(self) -> None:
        """From here on the loop looks at `requested` between its steps."""
        self._leave = None

    def steps_pause(self, wait: Callable[[], Any]) -> None:
        """All that was trained is saved once `wait` returns: until `steps_begin` SIGTERM ends the process then."""
        self._leave = wait
        if self.requested:
            self._leave_now()

    def close(self) -> None:
        """Give SIGTERM back."""
        if not self._installed:
            return
        self._leave = None
        signal.set_wakeup_fd(self._old_wakeup)
        signal.signal(signal.SIGTERM, self._old_handler)
        os.close(self._writer)  # ends the thread
        self._thread.join()
        os.close(self._reader)
