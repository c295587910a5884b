"""A plan formatted as a dozen lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def si(value: float, unit: str) -> str:
    """Format a value with an SI prefix, such as '59.5 TFLOP'."""
    size, prefix = next(((s, p) for s, p in _PREFIXES if value >= s), (1.0, ""))
    return f"{value / size:.3g} {prefix}{unit}"


def size(value: float) -> str:
    """Format bytes, such as '3.21 GiB' or '38 MiB'."""
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.2g} MiB"


def duration(seconds: float) -> str:
    """Format a duration, such as '18.9 µs', '12.3 ms', '45 s', '3.1 h' or '2.4 days'."""
    steps = ((1e-3, 1e-6, "µs"), (1.0, 1e-3, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172800.0, 3600.0, "h"))
    for limit, unit, name in steps:
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86400:,.3g} days"


def table(plan: Mapping[str, Any]) -> str:
    """Format the result of `report.plan`."""
    noun, plural = ("step", "steps") if plan["what"] == "train" else ("batch", "batches")
    used = plan["memory_bytes"]
    executed = sum(plan["executed_flops"].values())
    again = executed / plan["model_flops"] - 1
    lines = [
        (
            "plan",
            f"{plan['what']} on {plan['dataset']} for {plan['topology']}: {_count(plan, 'chips')}, "
            f"{_count(plan, 'hosts')}, {plan['examples_per_call']} examples per {noun}",
        ),
        ("parameters", f"{plan['parameters']:,}"),
        (
            "work",
            f"{si(plan['model_flops'], 'FLOP')} per {noun}"
            + (f", {again:.0%} more by rematerialization" if again > 0.005 else "")
            + _variants(plan.get("variants", [])),
        ),
    ]
    shape = f"arguments {size(used['arguments'])}, temporary {size(used['temporary'])}, outputs {size(used['outputs'])}"
    verdict = "fits" if plan["fits"] else "does NOT fit"
    total = (
        f"{size(used['total'])} of {size(used['available'])} per device" if used["total"] else "more than a device has"
    )
    lines.append(("memory", f"{verdict}: {total}" + (f" ({shape})" if used["arguments"] else "")))
    if "advice" in plan:
        lines.append(("try", "; ".join(plan["advice"])))
    if "seconds_per_call" in plan:
        lines += _time(plan, noun, plural)
    lines.append(("assumed", "; ".join(plan["assumptions"])))
    lines.append(("rates", _rates(plan["chip"])))
    lines.append(("compiled", f"in {duration(plan['trace_seconds'] + plan['compile_seconds'])}"))
    wrap = lambda name, text: textwrap.fill(text, 118, initial_indent=f"{name:<11} ", subsequent_indent=" " * 12)
    return "\n".join(wrap(name, text) for name, text in lines)


def _variants(variants: list[Mapping[str, Any]]) -> str:
    """Describe the variants of steps, if there are several."""
    if not variants:
        return ""
    each = ", ".join(f"{si(row['model_flops'], 'FLOP')} in {row['share']:.3g} of steps" for row in variants)
    return f", averaged over variants of the step: {each}; memory, traffic and links are of the most expensive"


def _count(plan: Mapping[str, Any], name: str) -> str:
    return f"{plan[name]} {name if plan[name] != 1 else name.removesuffix('s')}"


def _time(plan: Mapping[str, Any], noun: str, plural: str) -> list[tuple[str, str]]:
    seconds = plan["seconds_per_call"]
    parts = ", ".join(f"{name} {duration(seconds[name])}" for name in ("compute", "memory", "links"))
    kinds = ", ".join(
        f"{row['count']} {kind} of {si(row['payload_bytes'], 'B')}" for kind, row in plan["collectives"].items()
    )
    calls = f"{plan['calls']:,} {noun if plan['calls'] == 1 else plural}"
    rows = [
        ("links", f"{si(plan['collective_bytes'], 'B')} sent per device: {kinds or 'nothing'}"),
        ("intensity", f"{plan['flops_per_byte']:.0f} FLOP per byte of memory traffic"),
        (
            "time",
            f"{duration(seconds['total'])} per {noun} ({parts}), at best {duration(seconds['floor'])}; "
            f"{plan['examples_per_second']:,.0f} examples/s",
        ),
        ("cost", f"{calls}: {duration(plan['hours'] * 3600)}, {plan['chip_hours']:,.3g} chip-hours"),
    ]
    if plan["unknown_loops"]:
        rows.append(("warning", f"{plan['unknown_loops']} loops of unknown length are counted once"))
    return rows


def _rates(chip: Mapping[str, Any]) -> str:
    doubt = f" ({', '.join(chip['unverified'])} unverified)" if chip["unverified"] else ""
    return (
        f"{chip['name']}: {si(chip['bf16'], 'FLOP/s')}, {si(chip['bandwidth'], 'B/s')}, "
        f"links {si(chip['link'], 'B/s')} each way{doubt}; {chip['source']}"
    )
