"""Formatting of results as text and as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def number(mean: float, error: float | None = None) -> str:
    """Format as '1.832 ± 0.012', with two digits of the error."""
    if not error:
        return f"{mean:.6g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{mean:,.{digits}f} ± {error:,.{digits}f}"


def in_words(measured: Mapping[str, Any]) -> str:
    """Format as 'bits_per_dim 1.83 ± 0.01, …'."""
    return ", ".join(f"{name} {number(m['mean'], m['standard_error'])}" for name, m in measured.items())


def markdown(results: Mapping[str, Any], title: str, notes: str) -> str:
    """Format rows as Markdown tables; rows whose metrics are a subset of another's share its table."""
    small = "**Small-scale run** (`--mini`), not the paper's size. " if results["scale"] == "mini" else ""
    lines = [
        f"# {title}",
        "",
        f"{small}{notes}",
        "",
        f"Data: {results['data']}. Hardware: {results['hardware']}. Command: `{results['command']}`. "
        "± is the standard error over seeds and over images (or draws) together.",
    ]
    of = lambda entry: tuple(entry["measured"] or entry["paper"])
    tables: dict[tuple[str, ...], list[Any]] = {}
    for entry in results["rows"]:
        wider = [of(other) for other in results["rows"] if set(of(entry)) <= set(of(other))]
        tables.setdefault(max(wider, key=len), []).append(entry)
    for metrics, entries in tables.items():
        quoted = [m for m in metrics if any(m in e["paper"] for e in entries)]
        head = ["row", *metrics, *(f"{m}, paper" for m in quoted), "seeds", "n"]
        lines += ["", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        lines += ["| " + " | ".join(_cells(entry, metrics, quoted)) + " |" for entry in entries]
    return "\n".join(lines) + "\n"


def _cells(entry: Mapping[str, Any], metrics: Sequence[str], quoted: Sequence[str]) -> list[str]:
    """Return the cells of a row; n is the number of images or draws of the errors, all of them if metrics differ."""
    measured, paper = entry["measured"], entry["paper"]
    own = [number(measured[m]["mean"], measured[m]["standard_error"]) if m in measured else "–" for m in metrics]
    others = [f"{paper[m]:g}" if m in paper else "–" for m in quoted]
    counts = dict.fromkeys(f"{m['n']:,}" for m in measured.values() if m["standard_error"] is not None)
    seeds = str(max((m["seeds"] for m in measured.values()), default="–"))
    return [entry["name"], *own, *others, seeds, " / ".join(counts) if measured else "quoted"]
