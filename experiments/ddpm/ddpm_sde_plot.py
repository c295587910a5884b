"""The figure of `ddpm_sde`, from its JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import Results

CHAIN = "chain, linear β"


def plot(results: Results) -> Figure:
    """Plot targets by level (top), reverse steps and the bound (bottom)."""
    entries = {e["name"]: e for e in results["rows"]}
    figure = Figure((14, 7.6), layout="constrained")
    (share, gradient, density), (distance, whole, bound) = figure.subplots(2, 3)
    curves = entries[CHAIN]["runs"]["1"]["curves"]
    _shares(share, curves)
    _gradients(gradient, curves)
    _densities(density, entries)
    _distances(distance, [e for name, e in entries.items() if name.startswith("reverse step")])
    _whole(whole, [e for name, e in entries.items() if name.startswith("whole chain")])
    _bound(bound, [e for name, e in entries.items() if name.startswith("bound")])
    return figure


def _shares(axes: Axes, curves: dict[str, Any]) -> None:
    names = {"share_eps": "ε of all steps", "share_step_eps": "ε of one step", "share_previous": "previous z"}
    for number, (name, label) in enumerate(names.items()):
        axes.plot(curves["level"], curves[name], color=f"C{number}", label=label)
    axes.plot(curves["level"], curves["share_eps_linear"], ":", color="C0", label="linear in z")
    axes.plot(curves["level"], curves["share_previous_linear"], "k:", label="linear in z")
    axes.set(xscale="log", yscale="log", xlabel="level (linear β, 1000 levels)", ylabel="share of the variance")
    axes.set_title("share of each target that can be learned")
    axes.legend(frameon=False)


def _gradients(axes: Axes, curves: dict[str, Any]) -> None:
    for number, (name, values) in enumerate((n, v) for n, v in curves.items() if n.startswith("gradient, ")):
        label = name.removeprefix("gradient, ").replace("z_{ℓ−1}", "previous z")
        axes.plot(curves["level"], values, ("-", "--")[number % 2], color=f"C{number // 2}", label=label)
    axes.set(
        xscale="log", yscale="log", xlabel="level (linear β, 1000 levels)", ylabel="root mean square", ylim=(1e-5, 1e9)
    )
    axes.set_title("expected gradient of the loss w.r.t. the output")
    axes.legend(frameon=False, fontsize="small", ncols=2)


def _densities(axes: Axes, entries: dict[str, Any]) -> None:
    shown = [
        (n, e["runs"]["1"]["curves"]) for n, e in entries.items() if e["runs"] and "density" in e["runs"]["1"]["curves"]
    ]
    for number, (name, curves) in enumerate(shown):
        place = np.array(curves["previous"])
        normal = np.exp(-0.5 * (place - curves["mean"]) ** 2 / curves["variance"]) / np.sqrt(
            2 * np.pi * curves["variance"]
        )
        axes.plot(place, curves["density"], color=f"C{number}", label=name.removeprefix("reverse step, "))
        axes.plot(place, normal, ":", color=f"C{number}")
    axes.set(xlabel="previous z", ylabel="density", xlim=(-2.2, 2.6))
    axes.set_title("true reverse step at z = 0.9, and its Gaussian (dotted)")
    axes.legend(frameon=False)


def _distances(axes: Axes, entries: list[Any]) -> None:
    steps = [e["config"]["step_variance"] for e in entries]
    values = lambda metric: [e["measured"][metric]["mean"] for e in entries]
    for number, (variance, label) in enumerate((("own", "own variance"), ("step", "variance σ²"))):
        axes.plot(steps, values(f"kl_{variance}_variance"), "o-", ms=3, color=f"C{number}", label=f"KL (nats), {label}")
        axes.plot(steps, values(f"tv_{variance}_variance"), "s--", ms=3, color=f"C{number}", label=f"TV, {label}")
    axes.plot(steps, [v or np.nan for v in values("share_multimodal")], "k:", label="share of z with several modes")
    axes.set(xscale="log", yscale="log", xlabel="σ² of the step", ylim=(1e-7, 2))
    axes.set_title("distance of the reverse step from a Gaussian")
    axes.legend(frameon=False, fontsize="small")


def _whole(axes: Axes, entries: list[Any]) -> None:
    steps = np.array([e["config"]["step_variance"] for e in entries])
    for number, (metric, label) in enumerate(
        (("loss_own_variance", "own variance"), ("loss_step_variance", "variance σ²"))
    ):
        found = [e["measured"][metric]["mean"] for e in entries]
        axes.plot(steps, found, "o-", ms=4, color=f"C{number}", label=label)
    axes.plot(steps, found[-1] * steps / steps[-1], "k:", label="∝ σ²")
    axes.set(xscale="log", yscale="log", xlabel="σ² of every step", ylabel="Σ KL (nats)", ylim=(None, 3))
    axes.set_xticks(steps, [f"{s:g}" for s in steps], minor=False)
    axes.minorticks_off()
    axes.set_title("loss by Gaussian reverse steps over a chain")
    axes.legend(frameon=False)


def _bound(axes: Axes, entries: list[Any]) -> None:
    names = [e["config"]["model"] for e in entries]
    places = np.arange(len(names))
    pairs = (
        ("path", "ratio along the path"),
        ("kl", "sum of KLs"),
        ("level_ratio", "log-ratio of one level"),
        ("level_kl", "KL of one level"),
    )
    for number, (metric, label) in enumerate(pairs):
        found = [e["measured"][f"deviation_{metric}"]["mean"] for e in entries]
        bars = axes.bar(places + 0.2 * (number - 1.5), found, 0.18, label=label)
        axes.bar_label(bars, [f"{v:.2g}" if v > 1e-6 else "0" for v in found], fontsize="small")
    axes.set_xticks(places, [f"{n} model" for n in names])
    axes.set(ylabel="standard deviation (nats)", title="the bound of a Gaussian chain at one x")
    axes.legend(frameon=False, fontsize="small")
