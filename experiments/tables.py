"""Results as words and as markdown tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def number(mean: float, error: float | None = None) -> str:
    """'1.832 ± 0.012', with two digits of the error."""
    if not error:
        return f"{mean:.6g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{mean:,.{digits}f} ± {error:,.{digits}f}"


def in_words(measured: Mapping[str, Any]) -> str:
    """'bits_per_dim 1.83 ± 0.01, …'."""
    return ", ".join(f"{name} {number(m['mean'], m['standard_error'])}" for name, m in measured.items())


def markdown(results: Mapping[str, Any], title: str, notes: str) -> str:
    """Tables of the rows; those with the same metrics, or fewer of them, share a table."""
    small = "**Small-scale run** (`--mini`), not the paper's size. " if results["scale"] == "mini" else ""
    lines = [
        f"# {title}",
        "",
        f"{small}{notes}",
        "",
        f"Data: {results['data']}. Hardware: {results['hardware']}. Command: `{results['command']}`. "
        "± is the standard error over seeds and over images (or draws) together.",
    ]
    groups: dict[tuple[str, ...], list[Any]] = {}
    for entry in results["rows"]:
        metrics = tuple(entry["measured"] or entry["paper"])
        wider = next((known for known in groups if set(metrics) <= set(known)), metrics)
        groups.setdefault(wider, []).append(entry)
    for metrics, entries in groups.items():
        quoted = [m for m in metrics if any(m in e["paper"] for e in entries)]
        head = ["row", *metrics, *(f"{m}, paper" for m in quoted), "seeds", "n"]
        lines += ["", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        for entry in entries:
            measured = entry["measured"]
            cells = [
                number(measured[m]["mean"], measured[m]["standard_error"]) if m in measured else "–" for m in metrics
            ]
            cells += [f"{entry['paper'][m]:g}" if m in entry["paper"] else "–" for m in quoted]
            some = next(iter(measured.values()), {"seeds": "–", "n": "quoted"})
            lines.append("| " + " | ".join([entry["name"], *cells, str(some["seeds"]), str(some["n"])]) + " |")
    return "\n".join(lines) + "\n"
