"""The figure of `why_ddgan`, from its JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import Results


def plot(results: Results) -> Figure:
    """Plot accuracies of discriminators by step, and modes by seed."""
    few, everything = ([e for e in results["rows"] if e["config"]["kind"] == kind] for kind in ("few", "all"))
    figure = Figure((14, 7), layout="constrained")
    halves: Any = figure.subfigures(2, 1)
    above, below = halves
    panels = list(above.subplots(1, len(few), sharey=True, squeeze=False)[0])
    for axes, entry in zip(panels, few, strict=True):
        _accuracies(axes, entry)
    panels[0].set_ylabel("accuracy")
    panels[-1].legend(frameon=False, fontsize="small")
    for axes, rows in zip(below.subplots(1, 2, sharey=True), (few, everything), strict=True):
        _modes(axes, rows)
    return figure


def _accuracies(axes: Axes, entry: dict[str, Any]) -> None:
    """Plot the mean and the range over seeds."""
    runs = [run["curves"] for run in entry["runs"].values() if run["curves"]]
    for name, label in (("train", "training points"), ("held_out", "held-out points"), ("samples", "samples")):
        values = np.array([run[name] for run in runs])
        axes.fill_between(runs[0]["steps"], values.min(0), values.max(0), alpha=0.2, lw=0)
        axes.plot(runs[0]["steps"], values.mean(0), marker="o", ms=3, label=label)
    axes.axhline(0.5, color="k", lw=0.6, ls="--")
    axes.set(title=entry["name"], xlabel="training steps", ylim=(0, 1))


def _modes(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Plot one dot per seed."""
    for place, entry in enumerate(rows):
        modes = [run["measured"]["modes"]["mean"] for run in entry["runs"].values()]
        axes.scatter(place + np.linspace(-0.15, 0.15, len(modes)), modes, s=28)
    axes.axhline(10, color="k", lw=0.6, ls="--")
    axes.set_xticks(range(len(rows)), [e["name"].split(", ", 1)[1] for e in rows])
    axes.set(ylim=(-0.5, 26), ylabel="modes of 25 at the end", title=rows[0]["name"].split(", ")[0])
