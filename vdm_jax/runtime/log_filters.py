"""Suppresses what Orbax logs in addition to the errors that it raises, which are reported as a UserError."""

from __future__ import annotations

import functools
import logging
import os
import sys
from typing import Any

from absl import logging as absl_logging


@functools.cache
def silence_orbax() -> None:
    """Install the filters once per process; only output of Orbax is suppressed."""
    absl_logging.get_absl_logger().addFilter(_not_an_error_of_orbax)
    # When a read or write fails, Orbax closes the event loop of the others, and each of them logs a traceback.
    logging.getLogger("asyncio").addFilter(lambda line: "orbax" not in line.getMessage())
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        if not (code and "orbax" in code.co_filename) and str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


def _not_an_error_of_orbax(line: logging.LogRecord) -> bool:
    return line.levelno < logging.ERROR or f"{os.sep}orbax{os.sep}" not in line.pathname
