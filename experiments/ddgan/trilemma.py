"""Quality, coverage and speed: the trilemma of figure 1 of Xiao, Kreis & Vahdat 2022 on one data set.

Denoising Diffusion GANs with T = 1, 2 and 4, and DDPM, DDIM, the probability flow and VDM at several numbers of
evaluations, with small networks of reported sizes. Quality is the Fréchet distance and coverage the recall, both in
the features of a small classifier of the same data (see `sampler_tradeoff`); speed is the time per image, compiled
and in a batch.

    python -m experiments.ddgan.trilemma --mini --seeds=1
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from matplotlib.figure import Figure

from experiments import common, models
from experiments.common import Measured, Outcome, Results, Row, mean_of
from experiments.ddpm.sampler_tradeoff import CLASSIFIER, KINDS, quality, reference
from experiments.ddpm.sampler_tradeoff_models import model_of, prepared
from vdm_jax.evaluation import features
from vdm_jax.evaluation.precision_recall import precision_recall
from vdm_jax.presets.gan import DDGAN_ABLATIONS


class Line(NamedTuple):
    """The points of one line: a kind of model of `sampler_tradeoff`, its sampler and evaluations by scale."""

    kind: str
    sampler: str
    evaluations: dict[str, tuple[int, ...]]


GAN = "DDGAN"
GAN_FILES = {"mini": "experiments/ddgan/mini_ddgan.py", "paper": "configs/ddgan_cifar10.py"}
STEPS = (1, 2, 4)
MANY = {"mini": (4, 16, 64), "paper": (4, 16, 64, 250, 1000)}
LINES = {
    "DDPM": Line("DDPM", "ancestral", MANY),
    "DDIM": Line("DDPM", "ddim", MANY),
    "probability flow": Line("VDM", "heun", MANY),
    "VDM": Line("VDM", "ancestral", MANY),
}
SIZES = {"mini": {"samples": 500, "compared": 297, "repeats": 3}, "paper": {"samples": 50_000, "compared": 10_000}}


def rows(scale: str) -> list[Row]:
    size = {"repeats": 1, **SIZES[scale], "classifier": CLASSIFIER._asdict()}
    found = [Row("test images", {"kind": "test", "file": KINDS["VDM"].files[scale], **size})]
    for steps in STEPS:
        of = models.identity(GAN_FILES[scale], DDGAN_ABLATIONS[f"T{steps}"])
        drawn = {"kind": "samples", "line": GAN, "sampler": "ancestral", "evaluations": steps}
        found.append(Row(f"{GAN}, T = {steps}", {**drawn, **of, **size}))
    for name, line in LINES.items():
        of = models.identity(KINDS[line.kind].files[scale], KINDS[line.kind].overrides[scale])
        for count in line.evaluations[scale]:
            drawn = {"kind": "samples", "line": name, "sampler": line.sampler, "evaluations": count}
            found.append(Row(f"{name}, {count} evaluations", {**drawn, **of, **size}))
    return found


def coverage(found: np.ndarray, train: np.ndarray, count: int) -> dict[str, Measured]:
    """Return precision and recall of the first `count` samples, to be comparable with the test images."""
    pr = precision_recall(found[:count], train)
    return {"precision": mean_of(pr.covered), "recall": mean_of(pr.reached)}


def timed(model: models.Model, config: Any, seed: int) -> tuple[np.ndarray, dict[str, Measured]]:
    """Return samples and the seconds per sample, the minimum of several repeats.

    The CPU time is also reported; it does not depend on the load of the machine.
    """
    count = config["samples"]
    draw = prepared(model, config["sampler"], config["evaluations"], count, seed)
    images = draw()  # compiles
    wall, own = [], []
    for _ in range(config["repeats"]):
        before = time.perf_counter(), time.process_time()
        draw()
        wall.append(time.perf_counter() - before[0])
        own.append(time.process_time() - before[1])
    return images, {
        "evaluations": Measured(config["evaluations"]),
        "seconds": Measured(min(wall) / count),
        "processor_seconds": Measured(min(own) / count),
    }


def parameters(model: models.Model) -> int:
    """Return the number of parameters of the sampling network."""
    tree = model.params["generator" if model.config.method == "ddgan" else "network"]
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    config = row.config
    found, train, test = reference(models.load_config(config["file"], {}), config["classifier"], workdir)
    if config["kind"] == "test":
        accuracy = Measured(found.about["accuracy"], n=found.about["test_images"])
        measured = {**quality(test, train), **coverage(test, train, config["compared"]), "accuracy": accuracy}
        return Outcome(measured, {"title": found.title})
    model = model_of(config["file"], tuple(config["overrides"].items()), seed, workdir)
    images, speed = timed(model, config, seed)
    own = features.extract(found, images)
    measured = {**quality(own, train), **coverage(own, train, config["compared"]), **speed}
    return Outcome({**measured, "parameters": Measured(parameters(model))})


def plot(results: Results) -> Figure:
    """Plot distance and recall against evaluations and seconds, one line per sampler."""
    figure = Figure((13, 8), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col", sharey="row")
    (test,) = (e for e in results["rows"] if e["config"]["kind"] == "test")
    drawn = [e for e in results["rows"] if e is not test]
    title = test["runs"]["1"]["curves"]["title"].replace(" in the ", "\nin the ")
    ordinates = (("frechet_unbiased", title), ("recall", "recall, k = 3"))
    abscissae = (("evaluations", "evaluations of the network"), ("processor_seconds", "seconds of a core for an image"))
    for axes, (y, ylabel) in zip(panels, ordinates, strict=True):
        for panel, (x, xlabel) in zip(axes, abscissae, strict=True):
            panel.set_xscale("log")
            for name, marker in zip([GAN, *LINES], "*os^D", strict=True):
                own = [e["measured"] for e in drawn if e["config"]["line"] == name]
                if not own:
                    continue
                means, errors = ([m[y][key] for m in own] for key in ("mean", "standard_error"))
                panel.errorbar([m[x]["mean"] for m in own], means, errors, fmt=f"{marker}-", capsize=3, label=name)
            panel.axhline(test["measured"][y]["mean"], color="k", ls="--", lw=1, label="test images")
            panel.set_xlabel(xlabel if y == "recall" else "")
        axes[0].set_ylabel(ylabel)
    farthest = max(e["measured"]["frechet_unbiased"]["mean"] for e in drawn)
    for panel in panels[0]:
        common.symlog(panel, 1)
    panels[0, 0].set_ylim(-0.5, 1.5 * max(farthest, 1))
    panels[0, 0].set_yticks(places := [v for v in (0, 1, 2, 5, 10, 20, 50, 100, 200) if v < 1.5 * farthest], places)
    counts = sorted({e["config"]["evaluations"] for e in drawn})
    panels[1, 0].set_xticks(counts, [f"{n:g}" for n in counts])
    for panel in panels.flat:
        panel.minorticks_off()
    panels[1, 1].legend(frameon=False)
    return figure


EXPERIMENT = common.Experiment(
    "trilemma",
    "The generative learning trilemma: quality, coverage and speed",
    "`frechet` is the Fréchet distance between samples and training images in the features of a small classifier of "
    "the same data, trained here; it is not FID. `frechet_unbiased` is without its bias of O(1/N). `precision` and "
    "`recall` (k = 3) are in the same features, of as many samples as there are test images, against all training "
    "images; the row `test images` is what real images reach. `seconds` for an image, compiled and in batches of 500, "
    "is the least of the repeats; `processor_seconds` counts this process alone, over all cores. `parameters` are of "
    "the network that samples; a GAN's discriminator is gone by then. The probability flow takes Heun's steps of two "
    "evaluations on VDM's network, DDIM runs on DDPM's. DDPM is trained for L_simple and VDM for its bound, which "
    "costs quality; GANs take more and smaller batches and two networks a step, so training is not of one cost. "
    "Found: coverage grows with T, as in the paper, but these GANs stay far from the data, and DDIM with as many "
    "evaluations is nearer and covers more: 1,500 images and batches of 32 are little for a GAN.",
    models.data_of,
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT, batch_size=32)
