"""25 Gaussians (figure 6 of Xiao, Kreis & Vahdat 2022): which models cover all of them, and in how many steps.

* a vanilla GAN, a GAN with R1, Denoising Diffusion GAN with T = 4 and three of its ablations;
* a DDPM with 50 and with 500 steps, whose network is a residual perceptron of the same width and depth.

A mode counts as covered if at least 20 of 10,000 samples lie within four standard deviations of it and nearest to it.

  python -m experiments.ddgan.gaussians25 --mini --seeds=1
"""

from __future__ import annotations

import json
import time
from typing import Any

import jax
import numpy as np
from etils import epath
from matplotlib.figure import Figure

from experiments import common, models
from experiments.common import Measured, Outcome, Results, Row, mean_of
from vdm_jax.data.arrays import GAUSSIANS_DEVIATION, gaussians25_centers
from vdm_jax.evaluation import report
from vdm_jax.presets.gan import DDGAN_ABLATIONS

FILE = "configs/ddgan_gaussians.py"
OVERRIDES: dict[str, dict[str, Any]] = {
    "mini": {
        "model.width": 128,
        "data.batch_size": 256,
        "training.num_steps": 15_000,
        "training.checkpoint_every": 15_000,
        "optimizer.learning_rate": 1e-3,
        "optimizer.discriminator_learning_rate": 1e-3,
    },
    "paper": {},
}
SHOWN, ENOUGH, NEAR = 2000, 20, 4.0


def ddpm(steps: int) -> dict[str, Any]:
    """Return the fields of DDPM with L_simple, linear β and `steps` levels, all of which are sampled."""
    return {
        "method": "ddpm",
        "model.prediction": "eps",
        "schedule.kind": "ddpm_linear",
        "schedule.num_timesteps": steps,
        "sampling.num_steps": steps,
        "training.times": "stratified",
        "training.weighting": "simple",
        "optimizer.b1": 0.9,
        "optimizer.b2": 0.999,
    }


ROWS: dict[str, dict[str, Any]] = {
    "GAN": {**DDGAN_ABLATIONS["T1"], "training.r1_every": 0},
    "GAN with R1": DDGAN_ABLATIONS["T1"],
    "DDGAN, T = 4": {},
    "T = 4, no latent": DDGAN_ABLATIONS["no_latent"],
    "T = 4, direct": DDGAN_ABLATIONS["direct"],
    "T = 4, noise": DDGAN_ABLATIONS["noise"],
    "DDPM, 50 steps": ddpm(50),
    "DDPM, 500 steps": ddpm(500),
}


def rows(scale: str) -> list[Row]:
    found = []
    for name, changes in ROWS.items():
        size = {k: v for k, v in OVERRIDES[scale].items() if "method" not in changes or "discriminator" not in k}
        found.append(Row(name, models.identity(FILE, {**size, **changes})))
    return found


def coverage(points: np.ndarray) -> dict[str, Measured]:
    """Compute mode coverage of samples [N, 2].

    Returns:
      near: the share of samples within 4 σ of a center. modes: the number of centers with 20 of 10,000 of these or
      more. kl_nats: KL(distribution of these over centers ‖ uniform) in nats.
    """
    distance = np.sqrt(np.square(points[:, None] - gaussians25_centers()).sum(-1))
    near = distance.min(1) < NEAR * GAUSSIANS_DEVIATION
    counts = np.bincount(distance.argmin(1)[near], minlength=25)
    share = counts[counts > 0] / max(counts.sum(), 1)
    return {
        "near": mean_of(near),
        "modes": Measured(float(np.sum(counts >= ENOUGH * len(points) / 10_000)), None, len(points)),
        # if no sample is near, the value of a single mode
        "kl_nats": Measured(float(np.sum(share * np.log(25 * share))) if len(share) else float(np.log(25))),
    }


def training_seconds(directory: epath.Path) -> float:
    """Return the training time from the logged speeds."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if line.get("seconds_per_step")]
    return float(np.median([line["seconds_per_step"] for line in logged]) * lines[-1]["step"])


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    config = models.load_config(row.config["file"], {**row.config["overrides"], "training.seed": seed})
    model, count = models.trained(config, workdir), config.sampling.num_images
    draw = lambda number: report.sample(
        models.with_fields(config, {"sampling.seed": number}), model.method, model.params, model.mesh, count
    )[0]
    draw(seed)  # compiles
    began = time.monotonic()
    points = np.asarray(jax.device_get(draw(seed)), np.float64)
    found = {
        **coverage(points),
        "calls": Measured(config.sampling.num_steps),
        "sampling_seconds": Measured(time.monotonic() - began),
        "training_seconds": Measured(training_seconds(models.directory_of(config, workdir))),
    }
    return Outcome(found, {"points": common.rounded(points[:SHOWN].T, 3)})


def plot(results: Results) -> Figure:
    """Plot the samples of the first seed of every row."""
    figure = Figure((14, 7.2), layout="constrained")
    for axes, entry in zip(figure.subplots(2, 4).flat, results["rows"], strict=True):
        run = entry["runs"]["1"]
        axes.scatter(*run["curves"]["points"], s=1.5, alpha=0.5, lw=0)
        axes.scatter(*gaussians25_centers().T, s=60, facecolors="none", edgecolors="k", lw=0.5)
        modes, near = (run["measured"][name]["mean"] for name in ("modes", "near"))
        axes.set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal", xticks=[], yticks=[])
        axes.set_title(f"{entry['name']}: {modes:.0f} modes, {near:.0%} near")
    return figure


EXPERIMENT = common.Experiment(
    "gaussians25",
    "25 Gaussians",
    "`near`: share of 10,000 samples within 4 standard deviations of a center (.9997 of the data); `modes`: centers "
    "with 20 of those or more; `kl_nats`: their distribution over the centers against a uniform one; `calls` of the "
    "network for a sample; `sampling_seconds` for 10,000, compiled; `training_seconds` by the median step. The paper "
    "shows pictures of the vanilla GAN, T = 4 and DDPM, and no numbers; its code for them was never released. The GAN "
    "rows are T = 1 of the same networks. Found: the GAN loses modes without R1 and covers all of them with it, better "
    "than T = 4 with the same networks and steps; of the four steps' ablations it is the latent that matters most. "
    "Times are of a machine that had other work and compare roughly.",
    lambda scale: models.describe_data(models.load_config(FILE, {})),
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT, batch_size=512)
