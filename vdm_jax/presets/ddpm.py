"""Shared settings of the configs of DDPM and Improved DDPM."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import choose
from vdm_jax.presets.images import byte_images

# Samplers for the weights of a DDPM that was trained with T = 1000.
DDPM_SAMPLERS: dict[str, dict[str, Any]] = {
    "ddim50": {"sampling.sampler": "ddim", "sampling.respacing": "ddim50", "sampling.num_steps": 50},
    # ancestral steps over every 20th noise level; the noise levels of FastDDPM differ
    "fast50": {"sampling.respacing": "50", "sampling.num_steps": 50},
}

# Rows of Improved DDPM's tables, as changes to the config with the cosine schedule, L_hybrid and T = 4000.
IDDPM_VARIANTS: dict[str, dict[str, Any]] = {
    "linear": {"schedule.kind": "ddpm_linear"},
    "linear_1k": {"schedule.kind": "ddpm_linear", "schedule.num_timesteps": 1000, "sampling.num_steps": 1000},
    "simple": {"training.weighting": "simple", "model.variance": "beta"},
    "vlb": {"training.weighting": "vlb", "training.times": "importance"},
    "steps100": {"sampling.num_steps": 100},
}

# Mini size of multiscale networks for two CPU cores; a small-scale run, not the papers' size.
MULTISCALE_MINI: dict[str, Any] = {
    "model.width": 32,
    "model.depth": 1,
    "model.groups": 8,
    "data.batch_size": 32,
    "training.num_steps": 2000,
    "training.log_every": 100,
    "training.eval_every": 0,
    "training.sample_every": 0,
    "training.checkpoint_every": 500,
    "optimizer.warmup_steps": 100,
    "optimizer.learning_rate": 1e-3,
    "optimizer.ema": 0.999,
    "evaluation.examples": 200,
    "evaluation.passes": 2,
    "evaluation.batch_size": 50,
    "sampling.num_steps": 100,
    "sampling.num_images": 16,
    "sampling.batch_size": 16,
}
# The same for methods with a table of noise levels.
DDPM_MINI: dict[str, Any] = {**MULTISCALE_MINI, "evaluation.levels": 32}


def ddpm_images(name: str, size: int) -> ConfigDict:
    """Return DDPM's config for byte images of data set `name` at `size` × `size` pixels (Ho et al. 2020).

    It has DDPM's U-Net, linear β, T = 1000, variance β, L_simple, and Adam without weight decay.
    """
    parts = {
        "method": "ddpm",
        "model.network": "multiscale",
        "model.family": "ddpm",
        "model.variance": "beta",
        "schedule.kind": "ddpm_linear",
        "training.weighting": "simple",
        "sampling.clip": True,
    }
    config = choose(byte_images(name, size), parts)
    config.data.augment = ("flip",)
    config.model.width = 128
    config.model.depth = 2
    config.model.attention_at = (16,)
    config.schedule.num_timesteps = 1000
    config.training.times = "independent"
    config.optimizer.warmup_steps = 5000
    config.optimizer.weight_decay = 0.0
    config.optimizer.b2 = 0.999
    config.optimizer.clip = 1.0
    config.evaluation.passes = 4
    config.evaluation.levels = 64
    config.sampling.num_steps = 1000
    return config


def iddpm_images(name: str, size: int) -> ConfigDict:
    """Return Improved DDPM's config for byte images of data set `name` at `size` × `size` pixels.

    It has the cosine schedule, T = 4000, a learned variance, L_hybrid and Adam with learning rate 1e-4 (Nichol &
    Dhariwal 2021).
    """
    parts = {
        "model.family": "improved",
        "model.variance": "learned",
        "schedule.kind": "ddpm_cosine",
        "training.weighting": "hybrid",
    }
    config = choose(ddpm_images(name, size), parts)
    config.data.augment = ()
    config.model.depth = 3
    config.model.attention_at = (16, 8)
    config.model.heads = 4
    config.model.rescale_time = True
    config.schedule.num_timesteps = 4000
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 0
    config.optimizer.clip = 0.0
    config.sampling.num_steps = 4000
    return config
