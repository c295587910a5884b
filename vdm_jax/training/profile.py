"""Profiler traces of a few steps, for TensorBoard's profile page or XProf."""

from __future__ import annotations

import os
from typing import Any

import jax
from etils import epath


class Profile:
    """Traces the steps first to last into the working directory; (0, 0) disables tracing."""

    def __init__(self, directory: epath.Path, steps: tuple[int, ...]):
        self._directory, (self._first, self._last) = directory, steps
        self._tracing = False

    def before(self, done: int, count: int) -> None:
        """Start the trace if the next `count` steps after step `done` include its first step."""
        if not self._tracing and self._first and done < self._last and done + count >= self._first:
            jax.profiler.start_trace(os.fspath(self._directory))
            self._tracing = True

    def after(self, done: int, result: Any) -> None:
        """Stop the trace after its last step; called after dispatch, `result` is the step output."""
        if self._tracing and done >= self._last:
            jax.block_until_ready(result)
            self.close()
            self._first = 0

    def close(self) -> None:
        """Stop a running trace and write it."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
