"""Shared settings of the configs of score SDEs: image models and their mini size."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import choose
from vdm_jax.presets.ddpm import MULTISCALE_MINI, ddpm_images

# Mini size for two CPU cores; a small-scale run, not the paper's size.
SDE_MINI: dict[str, Any] = {
    **MULTISCALE_MINI,
    "evaluation.examples": 100,
    "evaluation.passes": 1,
    "evaluation.tolerance": 1e-3,
}

# The `deep` variants of DDPM++ and NCSN++: twice as many blocks, fewer steps.
DEEP: dict[str, Any] = {"model.depth": 8, "training.num_steps": 950_000}

# Predictor–corrector sampling of NCSN++ with VE: reverse diffusion and one Langevin step, r = .16.
VE: dict[str, Any] = {
    "schedule.kind": "ve_sde",
    "model.family": "ncsnpp",
    "optimizer.ema": 0.999,
    "sampling.sampler": "predictor_corrector",
    "sampling.snr": 0.16,
}


# Networks conditioned on the index of one of 1,000 noise levels, with VE and (as DDPM) with VP. A sampling step goes
# from one noise level of VE to the next. A VP network is not trained below its first noise level, at t = .001.
DISCRETE: dict[str, Any] = {"model.time_input": "index", "training.num_timesteps": 1000}
VE_DISCRETE: dict[str, Any] = {**VE, **DISCRETE, "sampling.num_steps": 999, "evaluation.estimator": "vlb"}
VP_DISCRETE: dict[str, Any] = {**DISCRETE, "schedule.t_min": 1e-3, "sampling.sampler": "ancestral"}


def sde_images(name: str, size: int) -> ConfigDict:
    """Return score_sde's config for byte images of data set `name` at `size` × `size` pixels (Song et al. 2021).

    It has DDPM++ with the VP SDE, the loss ‖ε − ε̂‖² uniform in t, Adam with learning rate 2e-4, 5,000 steps of warm-up,
    gradient clipping at global norm 1, EMA .9999, 1,000 Euler–Maruyama steps, and the likelihood of the
    probability-flow ODE over five passes.
    """
    parts = {
        "method": "sde",
        "model.family": "ddpmpp",
        "schedule.kind": "vp_sde",
        "sampling.sampler": "euler_maruyama",
        "sampling.clip": False,
        "evaluation.estimator": "ode",
    }
    config = choose(ddpm_images(name, size), parts)
    config.model.depth = 4
    config.model.dropout = 0.1
    config.training.num_steps = 1_300_000
    config.training.eval_examples = 256
    config.optimizer.learning_rate = 2e-4
    config.evaluation.passes = 5
    return config


SCOREFLOW_VARIANTS: dict[str, dict[str, Any]] = {
    "vp": {"schedule.kind": "vp_sde"},
    "bound": {"evaluation.estimator": "vlb"},
    "uniform_times": {"training.times": "independent"},
    "dequantizer": {"method": "dequantizer", "training.num_steps": 100_000, "model.coupling_width": 64},
    "mini": SDE_MINI,
}


def scoreflow_images(name: str, size: int) -> ConfigDict:
    """Return ScoreFlow's config for byte images (Song et al. 2021, maximum likelihood training).

    It has the deep DDPM++ with the sub-VP SDE, likelihood weighting, importance sampling of t and no augmentation.
    """
    parts = {"schedule.kind": "sub_vp_sde", "training.weighting": "vlb"}
    config = choose(sde_images(name, size), DEEP | parts)
    config.data.augment = ()
    config.training.times = "importance"
    return config
