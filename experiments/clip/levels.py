"""What a noised CLIP still sees: retrieval by noise level, and of a CLIP of clean images on the same pictures.

python -m experiments.clip.levels --mini --seeds=1
"""

from __future__ import annotations

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from experiments import common, models
from experiments.clip import small
from experiments.common import Outcome, Results, Row
from vdm_jax.methods import clip

FILE = "configs/clip_shapes.py"
STEPS = {"mini": 300, "paper": 20_000}
LEVELS = 12


def rows(scale: str) -> list[Row]:
    steps = {"training.num_steps": STEPS[scale], "training.checkpoint_every": STEPS[scale]}
    noised = {"model.noised": True, "schedule.kind": "ddpm_cosine", "schedule.num_timesteps": 1000}
    return [
        Row("noised CLIP", models.identity(FILE, {**noised, **steps, "evaluation.levels": LEVELS})),
        Row("CLIP of clean images", models.identity(FILE, steps)),
    ]


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    config = models.load_config(FILE, {**row.config["overrides"], "training.seed": seed})
    entry = small.retrieval(small.trained(config, workdir))
    curves = {}
    if "by_level" in entry:
        gamma = np.log(np.expm1(-np.cumsum(np.log1p(-clip.betas_of(config)))))
        index = [round(each["t"] * len(gamma)) - 1 for each in entry["by_level"]]
        curves = {
            "log_snr": common.rounded(-gamma[index], 4),
            "recall": [each["image_to_text_at_1"] for each in entry["by_level"]],
            "error": [each["image_to_text_at_1_standard_error"] for each in entry["by_level"]],
        }
    return Outcome({name: small.measured(entry, name) for name in ("image_to_text_at_1", "text_to_image_at_1")}, curves)


def plot(results: Results) -> Figure:
    figure = Figure((5, 3.5))
    axes = figure.subplots()
    noised, clean = results["rows"]
    for run in noised["runs"].values():
        curves = run["curves"]
        axes.errorbar(curves["log_snr"], curves["recall"], curves["error"], marker="o", capsize=3, color="C0")
    axes.axhline(clean["measured"]["image_to_text_at_1"]["mean"], color="C1", label="CLIP of clean images, no noise")
    axes.axhline(1 / 256, color="gray", lw=1, ls=":", label="chance")
    axes.invert_xaxis()
    axes.set_xlabel("log SNR of the image (noise increases to the right)")
    axes.set_ylabel("recall@1 among 256 captions")
    axes.legend()
    return figure


EXPERIMENT = common.Experiment(
    "clip_levels",
    "A noised CLIP by noise level",
    "The table shows the first level of the noised CLIP, with almost no noise. The figure shows all levels.",
    lambda scale: models.describe_data(models.load_config(FILE, {})),
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT, 256)
