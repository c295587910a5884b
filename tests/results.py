"""What the committed results of experiments say, for tests of their facts."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

from experiments import common

RESULTS = pathlib.Path(common.__file__).parent / "results"


def measured(name: str) -> dict[str, dict[str, Any]]:
    """Rows of a committed result by their names: {row: {metric: {mean, standard_error, …}}}."""
    entries = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))["rows"]
    return {entry["name"]: entry["measured"] for entry in entries}


def clearly(more: dict[str, Any], less: dict[str, Any], errors: float = 2) -> bool:
    """Whether a metric exceeds another by more than so many standard errors of their difference."""
    error = math.hypot(more["standard_error"] or 0.0, less["standard_error"] or 0.0)
    return bool(more["mean"] - less["mean"] > errors * error)
