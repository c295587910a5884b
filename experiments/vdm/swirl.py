"""The two-dimensional swirl: all parts of a VDM at a size where they can be plotted and checked.

* the path of samples from noise to data, and their density under the data by number of steps;
* the learned γ(t) and the loss by t;
* −log p of test points by the variational bound and by the probability-flow ODE, in nats, and the
  entropy of the data, a lower bound of both on average: the density is an integral over the spiral.

  python -m experiments.vdm.swirl --mini --seeds=1
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from experiments import common, models
from experiments.common import Outcome, Results, Row, mean_of
from vdm_jax.data.arrays import SWIRL_SIZES, swirl, swirl_points
from vdm_jax.data.paths import SPLIT_SEED
from vdm_jax.evaluation import report

FILE = "configs/swirl.py"
PATH = {"schedule.minimize_variance": True, "optimizer.schedule_learning_rate": 0.01}
OVERRIDES: dict[str, dict[str, Any]] = {
    "mini": {**PATH, "training.num_steps": 1000, "evaluation.examples": 2000, "evaluation.passes": 64},
    "paper": {**PATH, "evaluation.examples": 5000},
}
SAMPLE_STEPS = (5, 10, 25, 100, 250)
SHOWN, STATES, BINS, POINTS = 400, (0, 0.5, 0.7, 0.8, 0.9), 20, np.linspace(0, 1, 41)
OFF = 6.0  # nats; 0.13% of the data are farther from the spiral
NATS = 2 * np.log(2)  # per bit/dim


def rows(scale: str) -> list[Row]:
    config = models.identity(FILE, OVERRIDES[scale])
    found = [Row(name, config) for name in ("variational bound", "probability-flow ODE")]
    found.append(Row("entropy of the data", {"examples": OVERRIDES[scale]["evaluation.examples"]}))
    return found + [Row(f"samples, {n} steps", {**config, "num_steps": n}) for n in SAMPLE_STEPS]


def data_nats(points: np.ndarray) -> np.ndarray:
    """Return −log p of the data density at standardized points [N, 2], in nats [N].

    p(x) = ∫ N(x; r (cos r, sin r), I/4) dr/(3π), r from 3π/2 to 9π/2, by the midpoint rule.
    """
    raw = swirl_points(np.random.default_rng([SPLIT_SEED, 0]), SWIRL_SIZES["train"])
    mean, deviation = raw.mean(axis=0), raw.std(axis=0)
    r = np.pi * (1.5 + 3 * (np.arange(2000) + 0.5) / 2000)
    centers = np.stack([r * np.cos(r), r * np.sin(r)], axis=-1)
    square = np.square((points * deviation + mean)[:, None] - centers[None]).sum(-1)  # [N, 2000]
    log_p = np.logaddexp.reduce(-2 * square, axis=1) - np.log(len(r)) + np.log(2 / np.pi)
    return -(log_p + np.log(deviation).sum())


@lru_cache(maxsize=1)
def model_of(overrides: tuple, seed: int, workdir: epath.Path) -> models.Model:
    return models.trained(models.load_config(FILE, {**dict(overrides), "training.seed": seed}), workdir)


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    if row.name == "entropy of the data":
        return Outcome({"nats": mean_of(entropy_terms(row.config["examples"]))})
    model = model_of(tuple(row.config["overrides"].items()), seed, workdir)
    if row.name.startswith("samples"):
        return samples(model, row.config["num_steps"], seed)
    bound = row.name == "variational bound"
    values = models.likelihood(model, seed=seed, **({} if bound else {"estimator": "ode", "passes": 1}))
    nats = NATS * values["total"]
    excess = nats - entropy_terms(nats.shape[1])
    return Outcome({"nats": mean_of(nats), "minus_entropy": mean_of(excess)}, curves_of(model, values) if bound else {})


def entropy_terms(count: int) -> np.ndarray:
    """Return −log p of the data density at the first test points."""
    return data_nats(swirl("test", "", None)[0].images[:count].astype(np.float64))


def curves_of(model: models.Model, values: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return γ(t), and the loss in bins of t with standard errors."""
    t, loss = values["t"].reshape(-1), NATS * values["diffusion"].reshape(-1)
    groups = [loss[np.minimum((t * BINS).astype(int), BINS - 1) == b] for b in range(BINS)]
    gamma = np.asarray(model.method.schedule(model.params).gamma(POINTS.astype(np.float32)))
    return {
        "t": common.rounded(POINTS, 4),
        "gamma": common.rounded(gamma, 4),
        "loss_by_t": common.rounded([g.mean() for g in groups], 4),
        "loss_by_t_error": common.rounded([g.std() / np.sqrt(len(g)) for g in groups], 4),
    }


def samples(model: models.Model, num_steps: int, seed: int) -> Outcome:
    """Return −log p_data of samples and, for the largest number of steps, their path from noise."""
    config = models.with_fields(model.config, {"sampling.num_steps": num_steps, "sampling.seed": seed})
    last = num_steps == SAMPLE_STEPS[-1]
    keep = tuple(int(s * num_steps) for s in STATES) if last else ()
    points, path, *_ = report.sample(config, model.method, model.params, model.mesh, config.sampling.num_images, keep)
    strip = [*(states[:SHOWN] for states in path), points[:SHOWN]] if last else []
    nats = data_nats(np.asarray(points, np.float64))
    measured = {"nats_of_samples": mean_of(nats), "fraction_off": mean_of(nats > OFF)}
    return Outcome(measured, {"strip": [common.rounded(p.T, 2) for p in strip]} if strip else {})


def plot(results: Results) -> Figure:
    """Plot noise to data (top), and γ(t), loss by t, likelihoods and samples (bottom)."""
    entries = {e["name"]: e for e in results["rows"]}
    figure = Figure((14, 6.2), layout="constrained")
    panels: Any = figure.subfigures(2, 1, height_ratios=(1, 1.25))
    upper, lower = panels
    strip = entries[f"samples, {SAMPLE_STEPS[-1]} steps"]["runs"]["1"]["curves"]["strip"]
    titles = [f"t = {1 - s:.1f}" for s in STATES] + ["data (t = 0, decoded)"]
    for axes, points, title in zip(upper.subplots(1, len(strip)), strip, titles, strict=True):
        axes.scatter(*points, s=3, alpha=0.6, lw=0)
        axes.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[], title=title)
    path, loss, bounds, steps = lower.subplots(1, 4)
    curves = entries["variational bound"]["runs"]["1"]["curves"]
    path.plot(curves["t"], curves["gamma"], label="learned")
    path.plot([0, 1], [curves["gamma"][0], curves["gamma"][-1]], "k--", lw=1, label="line")
    path.set(xlabel="t", ylabel="γ(t)", title="schedule")
    path.legend(frameon=False)
    middle = (np.arange(BINS) + 0.5) / BINS
    loss.errorbar(middle, curves["loss_by_t"], 2 * np.array(curves["loss_by_t_error"]), fmt="o", ms=3, capsize=2)
    loss.set(xlabel="t", ylabel="diffusion loss (nats)", title="loss by t, ± 2 standard errors", ylim=(0, None))
    entropy = entries["entropy of the data"]["measured"]["nats"]["mean"]
    names = {"variational bound": "bound", "probability-flow ODE": "ODE"}
    for place, name in enumerate(names):
        m = entries[name]["measured"]["minus_entropy"]
        bounds.errorbar(place, m["mean"], 2 * m["standard_error"], fmt="o", capsize=4)
    bounds.axhline(0, color="k", ls="--", lw=1, label=f"entropy of the data, {entropy:.2f} nats")
    bounds.set_xticks(range(len(names)), list(names.values()))
    bounds.set(
        ylabel="−log p of test points − entropy (nats)", title="likelihood, ± 2 standard errors", xlim=(-0.5, 1.5)
    )
    bounds.set_ylim(top=1.25 * bounds.get_ylim()[1])
    bounds.legend(frameon=False, loc="upper left")
    found = [entries[f"samples, {n} steps"]["measured"]["nats_of_samples"] for n in SAMPLE_STEPS]
    errors = [2 * m["standard_error"] for m in found]
    steps.errorbar(SAMPLE_STEPS, [m["mean"] for m in found], errors, fmt="o-", ms=4, capsize=3, label="samples")
    steps.axhline(entropy, color="k", ls="--", lw=1, label="data")
    steps.set(
        xscale="log",
        xlabel="sampler steps",
        ylabel="−log p_data of samples (nats)",
        title="samples, ± 2 standard errors",
    )
    steps.set_xticks(SAMPLE_STEPS, list(map(str, SAMPLE_STEPS)), minor=False)
    steps.minorticks_off()
    steps.legend(frameon=False)
    return figure


EXPERIMENT = common.Experiment(
    "swirl",
    "The two-dimensional swirl",
    "In nats. `minus_entropy` is what the model loses against the data's own density, paired by test point. The ODE "
    "row is the bound of the probability flow through q(z₀|x). `nats_of_samples` is −log p_data of samples (for the "
    "data themselves it is the entropy); `fraction_off` are samples with more than 6 nats (0.1 % of the data).",
    lambda scale: models.describe_data(models.load_config(FILE, {})),
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT, batch_size=512)
