"""`sampler_tradeoff` on Fashion-MNIST: quality and bits/dim against the number of network evaluations.

VDM, DDPM and a score SDE have the same network and number of steps, so that they are comparable. Quality is the
Fréchet distance in the features of a small Fashion-MNIST classifier that is trained here; it is not FID.

    python -m experiments.ddpm.fashion_tradeoff --mini --seeds=1

The data: the Debian package dataset-fashion-mnist, or FASHION_MNIST=PATH of a folder with the idx files or of an .npz.
"""

from __future__ import annotations

import os
from typing import Any

from etils import epath

from experiments import common, models
from experiments.common import Outcome, Row
from experiments.ddpm import iddpm_nll, sampler_tradeoff
from experiments.ddpm.sampler_tradeoff import Kind, Study
from experiments.ddpm.sampler_tradeoff_plot import plot
from vdm_jax import data
from vdm_jax.config import gamma_0_for
from vdm_jax.evaluation import features

PATH = os.environ.get("FASHION_MNIST", "")
CLASSIFIER = features.Settings(steps=600)
SIDES = {"mini": 16, "paper": 32}
NETWORK: dict[str, Any] = {
    "model.network": "multiscale",
    "model.depth": 1,
    "model.width": 24,
    "model.multipliers": (1.0, 2.0, 2.0),
    "model.attention_at": (4,),
    "model.heads": 2,
    "model.unroll": 1,
    "training.num_steps": 1500,
    "training.checkpoint_every": 500,
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup_steps": 100,
    "optimizer.weight_decay": 0.0,
    "optimizer.ema": 0.99,
    "evaluation.examples": 1000,
    "evaluation.passes": 2,
}
SIZES: dict[str, dict[str, Any]] = {
    "mini": NETWORK,
    "paper": {
        **NETWORK,
        "model.width": 96,
        "model.depth": 2,
        "model.attention_at": (8,),
        "training.num_steps": 100_000,
        "training.checkpoint_every": 10_000,
        "optimizer.learning_rate": 2e-4,
        "optimizer.ema": 0.9999,
        "evaluation.examples": 0,
    },
}


def fields(scale: str) -> dict[str, Any]:
    """Return the config fields of the data."""
    side = SIDES[scale]
    return {"data.name": "fashion_mnist", "data.shape": (side, side, 1), "data.vocabulary": 256}


def kind(file: str, changes: dict[str, Any], samplers: tuple[str, ...], **more: Any) -> Kind:
    overrides = {scale: {**changes, **fields(scale), **SIZES[scale]} for scale in common.SCALES}
    return Kind(dict.fromkeys(common.SCALES, file), overrides, samplers, **more)


KINDS = {
    "VDM": kind(
        models.FILES["mini"],
        {"schedule.kind": "linear", "schedule.gamma_0": gamma_0_for(256)},
        ("ancestral", "heun"),
    ),
    "DDPM": kind(
        iddpm_nll.FILES["mini"],
        iddpm_nll.overrides("linear", "simple"),
        ("ancestral", "ddim"),
        students=(8, 4, 2),
        teacher_steps=8,
    ),
    "score SDE": kind(
        "experiments/sde/mini_sde.py",
        {"evaluation.estimator": "vlb"},
        ("euler_maruyama", "predictor_corrector", "heun"),
        adaptive=(0.1, 0.01),
    ),
}


def study(scale: str) -> Study:
    evaluations = {"mini": (4, 8, 16, 64), "paper": sampler_tradeoff.EVALUATIONS["paper"]}
    return Study(KINDS, evaluations, sampler_tradeoff.SAMPLES, CLASSIFIER, fields(scale))


def rows(scale: str) -> list[Row]:
    return sampler_tradeoff.rows(scale, study(scale))


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    return sampler_tradeoff.measure(row, seed, workdir, PATH)


def described(scale: str) -> str:
    """Describe the data, such as 'Fashion-MNIST 16×16 (version), test, 10,000 examples'."""
    shape = fields(scale)["data.shape"]
    found = data.load("fashion_mnist", "test", path=PATH, shape=shape)
    return f"Fashion-MNIST {'×'.join(map(str, shape[:2]))} ({found.version}), test, {found.num_examples:,} examples"


EXPERIMENT = common.Experiment(
    "fashion_tradeoff",
    "Quality and bits/dim against the number of network evaluations, Fashion-MNIST",
    sampler_tradeoff.NOTES
    + "VDM (for its bound), DDPM and score SDE (for L_simple) have one network and one number of "
    "steps, so that the three compare. A small-scale run is of averages of 2 × 2 pixels and its bits/dim of the first "
    "1,000 test images. Found: the best bound (VDM) is not the best sampler; few evaluations want DDIM, and students "
    "want fewer still; corrector steps pay from 64 evaluations on at the earliest.",
    described,
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
