"""Rectified flow on `digits`: the network of `configs/digits.py` and the velocity as its target. No download.

Not a result of a paper. The config shows that flow matching (Lipman et al. 2023; Liu, Gong & Liu 2023) is a Gaussian
diffusion on another path, whose bound and density are comparable with a VDM's. `logit_normal` draws t as in Esser et
al. (2024). `classes` is conditioned on the label and drops one label in ten, for classifier-free guidance.

Ours: test bits/dim 2.130 ± 0.046 (continuous VLB, 297 images, 16 passes, Monte Carlo error 0.045, averaged weights,
seed 1, one run). A VDM of this size, whose loss is the bound, has 1.762. Cost: about five CPU-minutes.
Slices: not yet planned.

    python -m vdm_jax.main --config=configs/flow_matching_digits.py --workdir=runs/flow_matching
"""

import math
from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import base, choose, fourier_exponents, gamma_0_for, with_variant

VALUES = 17

VARIANTS: dict[str, dict[str, Any]] = {
    "logit_normal": {"training.times": "logit_normal"},
    "euler": {"sampling.sampler": "euler"},
    "classes": {
        "model.num_classes": 10,
        "model.null_class": True,
        "training.label_dropout": 0.1,
        "sampling.guidance": (0.0, 1.0, 3.0),
    },
    "smoke": {
        "training.num_steps": 20,
        "training.log_every": 10,
        "sampling.num_steps": 4,
        "sampling.num_images": 16,
        "sampling.batch_size": 16,
        "evaluation.passes": 1,
        "model.width": 8,
        "model.groups": 4,
        "model.depth": 1,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    parts = {
        "method": "flow_matching",
        "model.prediction": "velocity",
        "schedule.kind": "rectified_flow",
        "sampling.sampler": "heun",
        "optimizer.decay": "cosine",
    }
    config = choose(base(), parts)
    config.data.batch_size = 32
    config.model.width = 32
    config.model.depth = 2
    config.model.groups = 8
    config.model.dropout = 0.1
    config.model.unroll = 8
    config.model.fourier = tuple(float(n) for n in fourier_exponents(VALUES))
    config.schedule.t_min = 1 / (1 + math.exp(-gamma_0_for(VALUES) / 2))  # the noise of γ₀ of the VDM of digits
    config.training.num_steps = 3000
    config.training.log_every = 100
    config.optimizer.learning_rate = 2e-3
    config.optimizer.ema = 0.99
    config.sampling.num_steps = 50
    config.evaluation.passes = 16
    config.evaluation.batch_size = 100
    return with_variant(config, variant, VARIANTS)
