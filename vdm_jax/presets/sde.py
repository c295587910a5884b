"""What the configs of the score SDEs share: base settings of the image models and their mini size."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import choose
from vdm_jax.presets.ddpm import MULTISCALE_MINI, ddpm_images

# A size for two CPU cores; a small-scale run, not the paper's.
SDE_MINI: dict[str, Any] = {
    **MULTISCALE_MINI,
    "evaluation.examples": 100,
    "evaluation.passes": 1,
    "evaluation.tolerance": 1e-3,
}

# DDPM++ and NCSN++ as their `deep` configs have them: twice the blocks, fewer steps.
DEEP: dict[str, Any] = {"model.depth": 8, "training.num_steps": 950_000}

# Predictor–corrector sampling of NCSN++ under VE: reverse diffusion and one Langevin step, r = .16.
VE: dict[str, Any] = {
    "schedule.kind": "ve_sde",
    "model.family": "ncsnpp",
    "optimizer.ema": 0.999,
    "sampling.sampler": "predictor_corrector",
    "sampling.snr": 0.16,
}


# Networks that know the numbers of 1,000 levels, under VE and, as DDPM's, under VP, and no time between. A step goes
# from a level of VE to the next; a VP network knows nothing below its first level, at t = .001.
DISCRETE: dict[str, Any] = {"model.told": "index", "training.num_timesteps": 1000}
VE_DISCRETE: dict[str, Any] = {**VE, **DISCRETE, "sampling.num_steps": 999, "evaluation.estimator": "vlb"}
VP_DISCRETE: dict[str, Any] = {**DISCRETE, "schedule.t_min": 1e-3, "sampling.sampler": "ancestral"}


def sde_images(name: str, size: int) -> ConfigDict:
    """Settings of score_sde for byte images: DDPM++ under the VP SDE, ‖ε − ε̂‖² uniform in t, Adam 2e-4, 5,000 steps of
    warm-up, joint clipping at 1, EMA .9999, 1,000 Euler–Maruyama steps, the flow's likelihood over five passes."""
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
    "dequantiser": {"method": "dequantiser", "training.num_steps": 100_000, "model.coupling_width": 64},
    "mini": SDE_MINI,
}


def scoreflow_images(name: str, size: int) -> ConfigDict:
    """DDPM++ deep under sub-VP with the likelihood weighting, t by importance, no augmentation."""
    parts = {"schedule.kind": "sub_vp_sde", "training.weighting": "vlb"}
    config = choose(sde_images(name, size), DEEP | parts)
    config.data.augment = ()
    config.training.times = "importance"
    return config
