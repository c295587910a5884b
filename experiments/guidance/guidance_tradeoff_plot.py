"""The figure of `guidance_tradeoff`, from its JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import Results

FAMILIES = {
    "classifier-free": "o-",
    "classifier on the conditional model": "s-",
    "classifier on the unconditional model": "^-",
    "mean shift by β on the unconditional model": "v:",
    "score shift on the unconditional model": "<:",
    "score shift, then clipped, on the unconditional model": ">:",
    "dynamic threshold": "x--",
}
MAIN = list(FAMILIES)[:3]
SHIFTS = list(FAMILIES)[2:6]
SHORT = {
    "classifier-free": "classifier-free",
    "classifier on the conditional model": "classifier, on the conditional model",
    "classifier on the unconditional model": "classifier, on the unconditional model",
    "mean shift by β on the unconditional model": "mean, by β",
    "score shift on the unconditional model": "score",
    "score shift, then clipped, on the unconditional model": "score, then clipped",
    "dynamic threshold": "classifier-free, dynamic threshold",
}


def plot(results: Results) -> Figure:
    """Plot quality against strength (top), other metrics (middle) and samples (bottom)."""
    entries: dict[str, Any] = {e["name"]: e for e in results["rows"]}
    families = {name: _family(entries, name) for name in FAMILIES}
    figure = Figure((17, 11.5), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.1, 1))
    upper, lower = parts[0].subplots(2, 5)
    metrics = ("accuracy", "precision", "recall", "frechet")
    for axes, metric in zip(upper, metrics, strict=False):
        for name in MAIN:
            _line(axes, families[name], metric, name)
        _test(axes, entries, metric)
        axes.set(title="Fréchet distance" if metric == "frechet" else metric, xlabel="S, total factor of ∇ log p(c|z)")
    upper[3].set_yscale("log")
    _frontier(upper[4], families)
    for name in SHIFTS:
        _line(lower[0], families[name], "frechet", name, label="mean, by Σ" if name == SHIFTS[0] else "")
    lower[0].set(title="Fréchet distance by shift", xlabel="s, on the unconditional model", yscale="log")
    lower[0].legend(frameon=False, fontsize="small")
    _saturation(lower[1], families, entries)
    _samples_by_p(lower[2], entries)
    _bits_by_p(lower[3], entries)
    _classifiers(lower[4], entries)
    handles, labels = upper[0].get_legend_handles_labels()
    parts[0].legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    _samples(parts[1], families)
    return figure


def _family(entries: dict[str, Any], name: str) -> list[Any]:
    """Return the rows of a family by strength; the unguided model is the first of the conditional model."""
    own = [e for n, e in entries.items() if n.startswith(f"{name}, ")]
    if name == "classifier on the conditional model":
        own.append(entries["classifier-free, w = 0"])
    return sorted(own, key=lambda e: e["config"]["total"])


def _values(own: list[Any], metric: str) -> tuple[list[float], list[float]]:
    found = [e["measured"][metric] for e in own]
    return [m["mean"] for m in found], [m["standard_error"] or 0.0 for m in found]


def _line(axes: Axes, own: list[Any], metric: str, name: str, color: str | None = None, label: str = "") -> None:
    means, errors = _values(own, metric)
    color = color or f"C{list(FAMILIES).index(name)}"
    totals = [e["config"]["total"] for e in own]
    axes.errorbar(totals, means, errors, fmt=FAMILIES[name], ms=4, capsize=2, color=color, label=label or SHORT[name])


def _test(axes: Axes, entries: dict[str, Any], metric: str) -> None:
    axes.axhline(entries["test images"]["measured"][metric]["mean"], color="k", ls="--", lw=1, label="test images")


def _frontier(axes: Axes, families: dict[str, list[Any]]) -> None:
    """Plot recall against precision, with a line from weak to strong guidance."""
    for place, name in enumerate(MAIN):
        x, y = (_values(families[name], metric)[0] for metric in ("precision", "recall"))
        axes.plot(x, y, FAMILIES[name], ms=4, color=f"C{place}")
        axes.plot(x[-1:], y[-1:], "o", ms=9, mfc="none", color=f"C{place}")
    axes.set(title="recall, precision (circle: strongest)", xlabel="precision", ylabel="recall")


def _saturation(axes: Axes, families: dict[str, list[Any]], entries: dict[str, Any]) -> None:
    for metric, color in (("black", "0.3"), ("white", "C1")):
        for name, how in (("classifier-free", "clipped"), ("dynamic threshold", "dynamic")):
            _line(axes, families[name], metric, name, color, f"{metric}, {how}")
        axes.axhline(entries["test images"]["measured"][metric]["mean"], color=color, ls=":", lw=1)
    axes.set(title="saturated pixels (dotted: real)", xlabel="S = 1 + w")
    axes.legend(frameon=False, fontsize="x-small")


def _samples_by_p(axes: Axes, entries: dict[str, Any]) -> None:
    """Plot recall and precision against p_uncond at each guidance weight."""
    compared = [e for e in entries.values() if e["name"].startswith("p_uncond")]
    for place, total in enumerate(dict.fromkeys(e["config"]["total"] for e in compared)):
        own = [e for e in compared if e["config"]["total"] == total] + [entries[f"classifier-free, w = {total - 1:g}"]]
        own.sort(key=_p)
        for metric, form in (("precision", "o-"), ("recall", "s--")):
            means, errors = _values(own, metric)
            label = f"{metric}, w = {total - 1:g}"
            axes.errorbar(
                [_p(e) for e in own], means, errors, fmt=form, ms=4, capsize=2, color=f"C{place}", label=label
            )
    _log_p(axes, [_p(e) for e in entries.values() if e["name"].startswith("bits/dim, p_uncond")])
    axes.set(title="classifier-free samples")
    axes.legend(frameon=False, fontsize="x-small")


def _bits_by_p(axes: Axes, entries: dict[str, Any]) -> None:
    own = [e for e in entries.values() if e["name"].startswith("bits/dim, p_uncond")]
    p = [_p(e) for e in own]
    for metric, label, form in (("bits_conditional", "given the label", "o-"), ("bits_unconditional", "given ∅", "s-")):
        means, errors = _values(own, metric)
        axes.errorbar(p, means, errors, fmt=form, ms=4, capsize=2, label=label)
    alone = entries["bits/dim, unconditional model"]["measured"]["bits_unconditional"]["mean"]
    axes.axhline(alone, color="k", ls="--", lw=1, label="unconditional model")
    _log_p(axes, p)
    axes.set(title="test bits/dim")
    axes.legend(frameon=False, fontsize="small")


def _p(entry: Any) -> float:
    found: float = entry["config"]["model"]["overrides"]["training.label_dropout"]
    return found


def _log_p(axes: Axes, p: list[float]) -> None:
    axes.set(xlabel="p_uncond", xscale="log")
    axes.set_xticks(p, [f"{v:g}" for v in p], minor=False)
    axes.minorticks_off()


def _classifiers(axes: Axes, entries: dict[str, Any]) -> None:
    own = [e for e in entries.values() if e["config"]["kind"] == "classify"]
    for metric, label, form in (
        ("accuracy_noisy_classifier", "noisy classifier", "o-"),
        ("accuracy_implicit", "implicit", "s--"),
    ):
        means, errors = _values(own, metric)
        axes.errorbar([e["config"]["t"] for e in own], means, errors, fmt=form, ms=4, capsize=2, label=label)
    axes.set(title="accuracy on noisy test images", xlabel="t")
    axes.legend(frameon=False, fontsize="small")


def _samples(part: Any, families: dict[str, list[Any]]) -> None:
    """Show the first samples of seed 1 as grayscale images, one row per strength."""
    names = ("classifier-free", "dynamic threshold", "classifier on the unconditional model")
    for axes, name in zip(part.subplots(1, len(names)), names, strict=True):
        pictures = [np.array(e["runs"]["1"]["curves"]["images"]) for e in families[name]]
        side = int(np.sqrt(pictures[0].shape[1]))
        tiles = [np.pad(p.reshape(-1, side, side), ((0, 0), (1, 1), (1, 1)), constant_values=8) for p in pictures]
        axes.imshow(np.vstack([np.hstack(list(row)) for row in tiles]), cmap="gray")
        middles = (side + 2) * (np.arange(len(tiles)) + 0.5) - 0.5
        axes.set_yticks(middles, [f"S = {e['config']['total']:g}" for e in families[name]])
        axes.set_xticks([])
        axes.set_title(SHORT[name], fontsize="medium")
