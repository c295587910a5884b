"""The continuous bound does not depend on the path of γ (VDM §5.1): same endpoints, same L_∞.

One trained network is evaluated under γ linear in t, the truncated cosine and random monotone paths,
all with the same endpoints. The bounds must agree within their errors; the variances of their
estimates differ widely.

    python -m experiments.vdm.schedule_invariance --mini --seeds=2
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from matplotlib.figure import Figure

from experiments import common, models
from experiments.common import Outcome, Results, Row, mean_of, variance_of

PATHS = ("linear", "cosine", "random 1", "random 2")
POINTS = np.linspace(0, 1, 101)
PASSES = {"mini": 64, "paper": 20}
FEATURES, SKIP = 8, 0.3  # few steep units and a small linear part: strong bends, but γ′ is bounded away from 0


def rows(scale: str) -> list[Row]:
    overrides = {"schedule.kind": "linear", "evaluation.passes": PASSES[scale]}
    model = models.identity(models.FILES[scale], overrides)
    return [Row(f"{path} γ", {**model, "path": path}) for path in PATHS]


def random_shape(number: int) -> dict[str, jax.Array]:
    """Return the leaves of a monotone path with bends at random times."""
    rate_key, place_key = jax.random.split(jax.random.key(number))
    rate = jax.random.uniform(rate_key, (FEATURES,), minval=4.0, maxval=16.0)
    place = jax.random.uniform(place_key, (FEATURES,), minval=-1.0, maxval=1.0)
    return {"skip": jnp.float32(SKIP), "rate": rate, "bias": -rate * place, "out": jnp.ones(FEATURES)}


def under(model: models.Model, path: str) -> models.Model:
    """Return the model with γ on another path between the same endpoints."""
    if not path.startswith("random"):
        return models.with_schedule(model, {"kind": path}, {})
    section = model.config.schedule
    ends = {"gamma_0": jnp.float32(section.gamma_0), "span": jnp.float32(section.gamma_1 - section.gamma_0)}
    leaves = {**ends, "shape": random_shape(int(path.removeprefix("random ")))}
    return models.with_schedule(model, {"kind": "learned_monotone", "features": FEATURES}, leaves)


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    model, reference = models.reference(row.config, seed, workdir)
    path = row.config["path"]
    model = under(model, path)
    # independent noise for each path, so that rows are independent given the images
    values = models.likelihood(model, seed=1000 * seed + PATHS.index(path)) if path != "linear" else reference
    measured = {"bits_per_dim": mean_of(values["total"]), "variance_bits2": variance_of(values["diffusion"])}
    if path != "linear":
        measured["minus_linear_bits"] = mean_of(values["total"] - reference["total"])
    gamma = np.asarray(model.method.schedule(model.params).gamma(jnp.asarray(POINTS)))
    return Outcome(measured, {"t": common.rounded(POINTS, 4), "gamma": common.rounded(gamma, 4)})


def plot(results: Results) -> Figure:
    """Plot the paths, the differences of their bounds from the linear path, and the variances."""
    figure = Figure((12, 3.8))
    left, middle, right = figure.subplots(1, 3)
    entries = results["rows"]
    names = [e["config"]["path"] for e in entries]
    for entry in entries:
        curves = entry["runs"]["1"]["curves"]
        left.plot(curves["t"], curves["gamma"], label=entry["config"]["path"])
    left.set(xlabel="t", ylabel="γ(t)", title="same endpoints")
    left.legend(frameon=False)
    zero: dict[str, Any] = {"mean": 0.0, "standard_error": 0.0}
    bars(middle, names, [e["measured"].get("minus_linear_bits", zero) for e in entries])
    middle.axvline(0, color="k", lw=1, ls="--")
    middle.set(xlabel="bound − that of the linear path\n(bits/dim, ± 2 standard errors)", title="same bound")
    bars(right, names, [e["measured"]["variance_bits2"] for e in entries])
    right.set(
        xlabel="variance of the diffusion term\n(bits²/dim², ± 2 standard errors)",
        title="different variance",
        xlim=(0, None),
    )
    figure.tight_layout()
    return figure


def bars(axes: Any, names: list[str], found: list[Any]) -> None:
    """Plot points with two standard errors, one line per path, in the colors of the curves."""
    for place, m in enumerate(found):
        axes.errorbar(m["mean"], place, xerr=2 * m["standard_error"], fmt="o", capsize=4, color=f"C{place}")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


EXPERIMENT = common.Experiment(
    "schedule_invariance",
    "One network under four paths of γ",
    "The same network and endpoints; only the path of γ between them differs. `minus_linear_bits` is the difference "
    "of the bounds, paired by image with independent noise, and must be 0 within its error; `variance_bits2` is the "
    "variance of one estimate of the diffusion term over images, t and ε.",
    models.data_of,
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
