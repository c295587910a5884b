"""The figure of `guided_mixture`, from its JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import Results

BINS = np.linspace(-4.05, 4.05, 82)  # 0 is the center of a bin
RULES = {"flow": "C0", "SDE": "C1"}
LIKELIHOODS = {"log_p_class": "log p(c|x)", "log_p": "log p(x)", "log_p_given_class": "log p(x|c)"}


def plot(results: Results) -> Figure:
    """Plot densities and samples by w (top), likelihoods, the implicit classifier and mean shifts (bottom)."""
    entries = {e["name"]: e for e in results["rows"]}
    weights = [e["config"]["w"] for e in entries.values() if e["config"]["kind"] == "tilted"]
    figure = Figure((14, 10), layout="constrained")
    panels: Any = figure.subfigures(2, 1, height_ratios=(1.5, 1))
    upper, lower = panels
    grid = upper.subplots(2, len(weights), sharex=True, sharey="col")
    for axes, scores in zip(grid, ("exact", "trained"), strict=True):
        for place, w in zip(axes, weights, strict=True):
            _densities(place, entries, scores, w)
        axes[0].set_ylabel(f"density; samples with {scores} scores")
    for axes in grid.flat:
        axes.set_ylim(bottom=0)
    for axes in grid[1]:
        axes.set_xlabel("x")
    upper.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    *likelihoods, implicit, shifts = lower.subplots(1, 5)
    for axes, (metric, title) in zip(likelihoods, LIKELIHOODS.items(), strict=True):
        _likelihood(axes, entries, weights, metric)
        axes.set_title(title)
    likelihoods[0].legend(frameon=False, fontsize="small")
    _classifiers(implicit, [e for e in entries.values() if e["config"]["kind"] == "classifier"])
    _shifts(shifts, [e for e in entries.values() if e["config"]["kind"] == "shift"])
    return figure


def _densities(axes: Axes, entries: dict[str, Any], scores: str, w: float) -> None:
    curves = entries[f"tilted density, w = {w:g}"]["runs"]["1"]["curves"]
    axes.fill_between(curves["x"], curves["density"], color="0.85", label="tilted density, exact")
    for rule, color in RULES.items():
        entry = entries[f"{rule}, {scores} scores, w = {w:g}"]
        height = np.mean([run["curves"]["density"] for run in entry["runs"].values()], axis=0)
        axes.stairs(height, BINS, color=color, label=f"samples of the {rule}")
    axes.set(title=f"w = {w:g}", xlim=(BINS[0], BINS[-1]))


def _series(entries: dict[str, Any], prefix: str, weights: list[float], metric: str) -> list[float]:
    return [entries[f"{prefix}, w = {w:g}"]["measured"][metric]["mean"] for w in weights]


def _likelihood(axes: Axes, entries: dict[str, Any], weights: list[float], metric: str) -> None:
    for rule, color in RULES.items():
        for scores, line in (("exact", "o-"), ("trained", "x--")):
            found = _series(entries, f"{rule}, {scores} scores", weights, metric)
            axes.plot(weights, found, line, ms=5, color=color, label=f"{rule}, {scores} scores")
    axes.plot(weights, _series(entries, "tilted density", weights, metric), ":", color="0.4", label="tilted density")
    axes.set(xlabel="w", ylabel="nats, mean over samples")


def _classifiers(axes: Axes, entries: list[Any]) -> None:
    gamma = [e["config"]["gamma"] for e in entries]
    for metric, label, form in (("accuracy_exact", "exact", "k-"), ("accuracy_implicit", "implicit, trained", "C2o--")):
        axes.plot(gamma, [e["measured"][metric]["mean"] for e in entries], form, ms=5, label=label)
    axes.set(xlabel="γ = −log SNR of z", ylabel="accuracy", title="classifiers of z", ylim=(0.4, 1))
    axes.legend(frameon=False)


def _shifts(axes: Axes, entries: list[Any]) -> None:
    for by in dict.fromkeys(e["config"]["by"] for e in entries):
        own = [e for e in entries if e["config"]["by"] == by]
        found = [e["measured"]["kl_of_moments"]["mean"] for e in own]
        axes.plot([e["config"]["steps"] for e in own], found, "o-", ms=4, label=by)
    axes.set(xscale="log", yscale="log", xlabel="ancestral steps", ylabel="KL of moments to p(x|c) (nats)")
    axes.set(title="mean shifts, scale 1", ylim=(None, 1e3))
    steps = sorted({e["config"]["steps"] for e in entries})
    axes.set_xticks(steps, [str(s) for s in steps])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize="small")
