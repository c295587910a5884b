"""The figure of `sampler_tradeoff`, from its JSON."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import common
from experiments.common import Results

STYLES = {"o": "-", "s": "--", "^": "-.", "D": ":"}  # line styles of kinds, which share ten colors


def plot(results: Results) -> Figure:
    """Plot distance and bits/dim against network evaluations, ± one standard error."""
    figure = Figure((11.5, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    (test,) = (e for e in results["rows"] if e["config"]["kind"] == "test")
    kinds = list(dict.fromkeys(e["name"].split(", ")[0] for e in results["rows"] if e is not test))
    for marker, kind in zip(STYLES, kinds, strict=False):
        own = [e for e in results["rows"] if e["name"].startswith(f"{kind}, ")]
        _kind(left, right, kind, own, marker)
    real = test["measured"]["frechet_unbiased"]
    left.axhline(real["mean"], color="k", ls="--", lw=1, label="test images")
    farthest = max(max(line.get_ydata()) for line in left.lines if len(line.get_ydata()))
    least = 10.0 ** math.ceil(math.log10(max(abs(real["mean"]), real["standard_error"], farthest / 300)))
    decades = range(math.ceil(math.log10(farthest / least)))
    ticks = [least * step * 10**decade for decade in decades for step in (1, 2, 5)]
    left.set(title="quality of samples", ylabel=test["runs"]["1"]["curves"]["title"].replace(" in the ", "\nin the "))
    right.set(title="likelihood", ylabel="test bits/dim")
    common.symlog(left, least)
    left.set_ylim(-0.3 * least, None)
    right.set_yscale("log")
    sampled = sorted({e["config"]["evaluations"] for e in results["rows"] if "evaluations" in e["config"]})
    flows = any(e["config"]["kind"] == "flow" for e in results["rows"])
    solved = [n for n in sampled if n > 1] + [128, 256] * flows
    for axes, evaluations, places in (
        (left, sampled, [0, *(v for v in ticks if v < 1.5 * farthest)]),
        (right, solved, (2, 3, 5, 10, 20, 50, 100)),
    ):
        axes.set(xscale="log", xlabel="network evaluations per image")
        axes.set_xticks(evaluations, [f"{n:g}" for n in evaluations], minor=False)
        axes.set_yticks(places, [f"{v:g}" for v in places], minor=False)
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    return figure


def _kind(left: Axes, right: Axes, kind: str, entries: list[Any], marker: str) -> None:
    """Plot the lines of one kind of model."""
    drawn = [e for e in entries if "sampler" in e["config"]]
    cost = lambda e: e["config"].get("evaluations") or e["measured"]["evaluations"]["mean"]
    for sampler in dict.fromkeys(e["config"]["sampler"] for e in drawn):
        same = sorted((e for e in drawn if e["config"]["sampler"] == sampler), key=cost)
        x = [cost(e) for e in same]
        far, label = [e["measured"]["frechet_unbiased"] for e in same], f"{kind}, {sampler}".replace("_", "–")
        _line(left, x, far, label, marker, STYLES[marker])
        if "bits_per_dim" in same[0]["measured"]:
            _line(right, x, [e["measured"]["bits_per_dim"] for e in same], f"{kind}, bound of so many steps", marker)
    color = right.lines[-1].get_color() if any("bits_per_dim" in e["measured"] for e in drawn) else "0.5"
    flow = [e["measured"] for e in entries if e["config"]["kind"] == "flow"]
    if flow:
        x = [m["evaluations"]["mean"] for m in flow]
        _line(right, x, [m["bits_per_dim"] for m in flow], f"{kind}, flow, by tolerance", marker, ":")
    (bound,) = (e["measured"]["bits_per_dim"]["mean"] for e in entries if e["config"]["kind"] == "bound")
    right.axhline(bound, color=color, ls="--", lw=1, label=f"{kind}, bound of all steps")


def _line(axes: Axes, x: list[float], found: list[dict[str, float]], label: str, marker: str, style: str = "-") -> None:
    means, errors = ([m[key] for m in found] for key in ("mean", "standard_error"))
    axes.errorbar(x, means, errors, fmt=marker + style, ms=4, capsize=3, label=label)
