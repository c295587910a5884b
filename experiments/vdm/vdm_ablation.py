"""Ablation of VDM: Fourier features on or off, schedule fixed or learned, T finite or infinite.

Each row is trained for every seed and evaluated with its own bound. The numbers of --mini are of small networks on
8×8 digits with short training, so the order of the rows may differ from the paper's. The paper's numbers (CIFAR-10,
ten million steps) are quoted and are not comparable.

    python -m experiments.vdm.vdm_ablation --mini --seeds=2
"""

from __future__ import annotations

from typing import Any

from etils import epath
from matplotlib.figure import Figure

from experiments import common, models
from experiments.common import Outcome, Results, Row, mean_of
from vdm_jax.presets.vdm import VDM_ABLATIONS

PASSES = {"mini": 16, "paper": 10}
VARIED: dict[str, dict[str, Any]] = {
    "Fourier features, γ learned": {"schedule.kind": "learned_scalar"},
    "Fourier features, γ fixed": VDM_ABLATIONS["fixed"],
    "Fourier features, γ's path by I.2": VDM_ABLATIONS["minimize_variance"],
    "no Fourier features, γ learned": {"schedule.kind": "learned_scalar", **VDM_ABLATIONS["no_fourier"]},
    "no Fourier features, γ fixed": {**VDM_ABLATIONS["fixed"], **VDM_ABLATIONS["no_fourier"]},
    "Fourier features, γ fixed, T = 10": {**VDM_ABLATIONS["fixed"], **VDM_ABLATIONS["T10"]},
}
FULL = "Fourier features, γ learned"
CIFAR10 = 2.65  # VDM, table 1: test bits/dim without augmentation, T = ∞


def rows(scale: str) -> list[Row]:
    found = []
    for name, varied in VARIED.items():
        overrides = {"evaluation.passes": PASSES[scale], **varied}
        paper = {"bits_per_dim": CIFAR10} if scale == "paper" and name == FULL else {}
        found.append(Row(name, models.identity(models.FILES[scale], overrides), paper))
    if scale == "mini":
        yardsticks = {
            "quoted: VDM on CIFAR-10 (other data and size)": CIFAR10,
            "quoted: autoregressive forest on digits": 1.92,
            "quoted: per-pixel histograms on digits": 2.42,
        }
        found += [Row(name, {}, {"bits_per_dim": value}, quoted=True) for name, value in yardsticks.items()]
    return found


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    config = models.load_config(row.config["file"], {**row.config["overrides"], "training.seed": seed})
    values = models.likelihood(models.trained(config, workdir), seed=seed)
    names = {"total": "bits_per_dim", "reconstruction": "reconstruction", "prior": "prior", "diffusion": "diffusion"}
    return Outcome({metric: mean_of(values[term]) for term, metric in names.items()})


def plot(results: Results) -> Figure:
    """Plot bits/dim of the rows, mean with error and every seed; finite T has its own scale."""
    figure = Figure((11, 4))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    entries = [e for e in results["rows"] if not e["quoted"]]
    for place, entry in enumerate(entries):
        axes = right if "T =" in entry["name"] else left
        m = entry["measured"]["bits_per_dim"]
        runs = [run["measured"]["bits_per_dim"]["mean"] for run in entry["runs"].values()]
        axes.errorbar(m["mean"], place, xerr=m["standard_error"], fmt="o", ms=6, capsize=4, color="C0")
        axes.errorbar(m["mean"], place, xerr=m["over_seeds"], lw=5, color="C0", alpha=0.4)
        axes.plot(runs, [place + 0.25] * len(runs), "|", color="k", ms=8)
    left.set_yticks(range(len(entries)), [e["name"] for e in entries])
    left.set_ylim(len(entries) - 0.5, -0.5)
    for axes, title in ((left, "T = ∞"), (right, "T finite")):
        axes.set(xlabel="test bits/dim", title=title)
        axes.grid(alpha=0.3)
    name = results["data"].split(" ")[0]
    figure.suptitle(
        f"{name}, {results['scale']} scale; ± one standard error (thin: seeds and images, thick: seeds); ticks: seeds",
        fontsize="medium",
    )
    figure.tight_layout()
    return figure


EXPERIMENT = common.Experiment(
    "vdm_ablation",
    "Fourier features and the schedule",
    "Test bits/dim of networks trained under each setting, evaluated with their own bound (T = ∞ unless said). "
    "Quoted rows are other people's, and CIFAR-10 bits/dim are not comparable with those of digits.",
    models.data_of,
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
