"""Large reverse steps are multimodal (figure 2 of Xiao, Kreis & Vahdat 2022): exact, for a 1-D mixture.

The true q(z_s|z_t) under the paper's process with T = 1 … 1000 steps: its distance from a Gaussian and its modes.

    python -m experiments.ddgan.why_ddgan_steps --seeds=1
"""

from __future__ import annotations

from typing import Any

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import common
from experiments.common import Measured, Outcome, Results, Row
from experiments.ddgan.why_ddgan_posterior import DATA, drawn, of_steps

STEPS = (1, 2, 4, 8, 50, 1000)


def rows(scale: str) -> list[Row]:
    line = {"weights": DATA.shares.tolist(), "means": DATA.means.tolist(), "variance": float(DATA.deviations[0] ** 2)}
    return [Row(f"T = {steps}", {**line, "steps": steps}) for steps in STEPS]


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    """Return sums and averages over the steps of a chain; independent of the seed."""
    steps = row.config["steps"]
    found = of_steps(DATA, steps)
    nats, modes = np.array([of.nats for of in found]), np.array([of.modes for of in found])
    worst = int(nats.argmax())
    measured = {
        "nats_of_all_steps": nats.sum(),
        "nats_of_the_worst_step": nats[worst],
        "nats_of_a_step": nats.mean(),
        "worst_step_ends_at_level": worst,
        "modes_of_the_worst_step": modes[worst],
        "modes_of_a_step": modes.mean(),
    }
    return Outcome({name: Measured(float(value)) for name, value in measured.items()}, drawn(DATA, steps, worst))


def plot(results: Results) -> Figure:
    """Plot the least Gaussian step of each chain, for three z_t."""
    figure = Figure((12, 6.4), layout="constrained")
    for axes, entry in zip(figure.subplots(2, 3).flat, results["rows"], strict=True):
        _densities(axes, entry)
    return figure


def _densities(axes: Axes, entry: dict[str, Any]) -> None:
    curves, measured = entry["runs"]["1"]["curves"], entry["measured"]
    for k, (x, density, gaussian) in enumerate(zip(*(curves[n] for n in ("x", "density", "gaussian")), strict=True)):
        axes.plot(x, density, color=f"C{k}", lw=1.4, label=f"exact, $z_t$ at {('.2', '.5', '.8')[k]} of its mass")
        axes.plot(x, gaussian, color=f"C{k}", lw=1, ls=":")
    below = int(measured["worst_step_ends_at_level"]["mean"])
    nats, modes = (measured[f"{name}_of_the_worst_step"]["mean"] for name in ("nats", "modes"))
    to = "the data" if below == 0 else f"level {below}"
    axes.set_title(f"{entry['name']}, from level {below + 1} to {to}\n{nats:.2g} nats from Gaussian, {modes:.2f} modes")
    axes.set(yticks=[], ylim=(0, None), xlabel="$z_s$")
    if entry["config"]["steps"] == 1:
        axes.legend(frameon=False, fontsize="small")


EXPERIMENT = common.Experiment(
    "why_ddgan_steps",
    "Reverse steps are Gaussian if there are many, and have many modes if there are few",
    "Data: .3 N(−1, .05²) + .45 N(−.2, .05²) + .25 N(.9, .05²). Numbers are of the exact q(z_s|z_t) under the paper's "
    "process, by quadrature, averaged over z_t. `nats_of_a_step`: KL to the Gaussian of its mean and variance, mean of "
    "T steps; `nats_of_all_steps`: their sum, what the bound on log p(x) loses in a chain of the best Gaussian "
    "steps; `worst`: the step with the largest; `modes`: maxima at least 1% as high as the highest. Dotted in the "
    "figure: the Gaussians.\n\n"
    "As in the paper, few steps have many modes and many steps are Gaussian, even summed over the chain. Not told "
    "there: on the line, with few steps of this process, nearly all of it is in the last one, to the data. At T = 4 "
    "the three above are within .001 nats of a Gaussian, since they run between levels that are almost noise, and the "
    "last one is nearly as far from a Gaussian as the only one at T = 1. (Modes of images are further apart, in "
    "deviations of the noise, so more of their steps have several.)",
    lambda scale: "a mixture of three Gaussians on the line, exact",
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT, batch_size=1)
