"""Test bits/dim against steps with the settings of the original code and with `VDM_RECIPE`, at equal FLOPs.

    python -m experiments.vdm.recipe --mini --seeds=1 --data=cifar10_subset.npz

--data: an `.npz` of 32×32×3 bytes with x_train and x_test, or a prepared CIFAR-10. Each model is trained
once, checkpointed every 150 steps, and every checkpoint is evaluated: averaged and raw weights,
continuous VLB, with the same noise for all.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import numpy as np
from etils import epath
from matplotlib.figure import Figure

from experiments import common
from vdm_jax import data, methods, weights
from vdm_jax.config import check, with_variant
from vdm_jax.evaluation import report
from vdm_jax.presets.vdm import VDM_MINI, VDM_RECIPE, vdm_images
from vdm_jax.runtime import checkpoints, devices
from vdm_jax.training.loop import train

EVERY, STEPS = 150, {"mini": 900, "paper": 100_000}
# The original code with its settings on the same subset, width, depth and batch size: raw weights,
# continuous VLB, the same 1,000 test images. Measured separately, not by this script.
ORIGINAL = {150: 7.69, 300: 6.07, 450: 5.49, 600: 5.18, 900: 4.79}


def source() -> str:
    """Remove --data from the command line and return its value; common.main parses the rest."""
    for argument in sys.argv[1:]:
        if argument.startswith("--data="):
            sys.argv.remove(argument)
            return argument.removeprefix("--data=")
    sys.exit("experiments.vdm.recipe: --data is missing; give an .npz with x_train and x_test, or a prepared CIFAR-10")


def config_of(path: str, changes: dict[str, Any]) -> Any:
    config = vdm_images("npz" if path.endswith(".npz") else "cifar10", 32, width=64, depth=4)
    own = {"data.path": path, "training.checkpoint_every": EVERY, "training.keep": 100}
    config = with_variant(config, "mini,recipe,own", {"mini": VDM_MINI, "recipe": changes, "own": own})
    check(config)
    return config


def experiment(path: str) -> common.Experiment:
    settings = {"recipe": VDM_RECIPE}

    def rows(scale: str) -> list[common.Row]:
        last = STEPS[scale]
        measured = [
            common.Row(
                f"{name}, {step} steps",
                {**changes, "training.num_steps": last, "step": step, "data.path": epath.Path(path).name},
            )
            for name, changes in settings.items()
            for step in range(EVERY, last + 1, EVERY)
            if step in ORIGINAL or step == last
        ]
        quoted = [
            common.Row(f"original, {step} steps", {"step": step}, {"raw": bits}, quoted=True)
            for step, bits in ORIGINAL.items()
        ]
        return [*measured, *(quoted if scale == "mini" else [])]

    def measure(row: common.Row, seed: int, workdir: epath.Path) -> common.Outcome:
        name = row.name.split(",")[0]
        config = config_of(path, settings[name])
        config.training.num_steps = row.config["training.num_steps"]
        config.training.seed = seed
        directory = workdir / f"recipe-{name}-{seed}"
        if config.training.num_steps not in checkpoints.steps(directory):
            train(config, directory, finish=False)
        return common.Outcome({which: bits(config, directory, row.config["step"], which) for which in ("ema", "raw")})

    def bits(config: Any, directory: epath.Path, step: int, which: str) -> common.Measured:
        config.evaluation.weights = which
        method = methods.build(config)
        params, _ = weights.load(str(directory / "checkpoints" / str(step)), config, method)
        mesh = devices.make_mesh(config.data.batch_size)
        values, _ = report.measure(config, method, jax.device_put(params, devices.replicated(mesh)), mesh)
        return common.mean_of(values["total"])

    def version(scale: str) -> str:
        dataset = data.load("npz" if path.endswith(".npz") else "cifar10", "test", path=path)
        return f"{dataset.name} ({dataset.version}), first 1,000 test images"

    return common.Experiment(
        name="recipe",
        title="Bits/dim against steps: the original's settings and ours",
        notes="Width 64, 4 blocks, batch 16, 32×32. `ema` and `raw` are the weights that were evaluated; test bits/dim "
        "by the continuous VLB, one pass. The rows `original` are the original's code with its own settings, quoted.",
        data=version,
        rows=rows,
        measure=measure,
        plot=plot,
    )


def plot(results: common.Results) -> Figure:
    figure = Figure((5.5, 3.6))
    axes = figure.subplots()
    for which, style in (("ema", "o-"), ("raw", "s--")):
        found = [e for e in results["rows"] if which in e["measured"]]
        steps, values = [e["config"]["step"] for e in found], [e["measured"][which] for e in found]
        errors = [v["standard_error"] for v in values]
        axes.errorbar(
            steps, [v["mean"] for v in values], errors, fmt=style, ms=4, capsize=2, label=f"ours, {which} weights"
        )
    quoted = [e for e in results["rows"] if e["quoted"]]
    axes.plot(
        [e["config"]["step"] for e in quoted], [e["paper"]["raw"] for e in quoted], "k^:", ms=4, label="original, raw"
    )
    axes.set(xlabel="steps of batch 16", ylabel="test bits/dim", ylim=(None, np.ceil(max(ORIGINAL.values()))))
    axes.legend()
    return figure


if __name__ == "__main__":
    common.main(experiment(source()), batch_size=VDM_MINI["data.batch_size"])
