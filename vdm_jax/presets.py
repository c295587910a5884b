"""What the configs of one paper share: its base settings and its ablations."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import base

# Rows of VDM's ablations (its table 2 and figure 4) as changes to any of its image configs.
# T… trains and evaluates the discrete bound; 'simple' is the weighting behind the FID of 4.0.
VDM_ABLATIONS: dict[str, dict[str, Any]] = {
    **{
        f"T{steps}": {"training.num_timesteps": steps, "evaluation.num_timesteps": steps}
        for steps in (10, 100, 250, 500, 1000)
    },
    "no_fourier": {"model.fourier": ()},
    "fixed": {"schedule.kind": "linear"},
    "monotone": {"schedule.kind": "learned_monotone"},
    "minimise_variance": {"schedule.kind": "learned_monotone", "schedule.minimise_variance": True},
    "simple": {"training.weighting": "simple", "schedule.kind": "cosine"},
}

# The same model family at a size for two CPU cores; a small-scale run, not the paper's.
VDM_MINI: dict[str, Any] = {
    "model.width": 64,
    "model.depth": 4,
    "data.batch_size": 16,
    "training.num_steps": 900,
    "training.log_every": 50,
    "training.eval_every": 0,
    "training.sample_every": 0,
    "training.checkpoint_every": 300,
    "evaluation.examples": 1000,
    "evaluation.passes": 1,
    "evaluation.batch_size": 50,
    "sampling.num_steps": 100,
    "sampling.num_images": 16,
    "sampling.batch_size": 16,
}


def byte_images(name: str, size: int) -> ConfigDict:
    """Square images of bytes, batches of 128, and what a run of weeks writes down and how often."""
    config = base()
    config.data.name = name
    config.data.shape = (size, size, 3)
    config.data.vocabulary = 256
    config.data.batch_size = 128
    config.training.log_every = 1000
    config.training.eval_every = 100_000
    config.training.eval_examples = 1000
    config.training.sample_every = 100_000
    config.training.checkpoint_every = 10_000
    config.evaluation.batch_size = 128
    return config


def vdm_images(name: str, size: int, *, width: int, depth: int) -> ConfigDict:
    """The settings of the original release for byte images: AdamW 2e-4, 100 steps of warm-up, no
    clipping, EMA .9999, dropout .1, γ learned as a line from −13.3 to 5, Fourier n = 7, 8."""
    config = byte_images(name, size)
    config.model.width = width
    config.model.depth = depth
    config.model.dropout = 0.1
    config.training.num_steps = 10_000_000
    config.training.eval_examples = 2000
    config.optimizer.clip = 0.0
    config.evaluation.passes = 10
    config.sampling.num_steps = 1000
    return config


# A faster start for the same network, for the mini size (experiments/recipe.py). At depth 32 and width 128 these
# rates were unstable in a short stress run and 1e-3 was not: there take ≤ 1e-3 and ≥ 1,000 steps of warm-up.
VDM_RECIPE: dict[str, Any] = {
    "model.residual": "pixel",
    "model.fourier_damping": True,
    "model.initial": "structured",
    "optimizer.name": "muon",
    "optimizer.learning_rate": 4e-3,
    "optimizer.muon_learning_rate": 4e-3,
    "optimizer.schedule_learning_rate": 1e-3,
    "optimizer.warmup_steps": 50,
    "optimizer.clip": 1.0,
}


# Samplers on the weights of a DDPM trained with T = 1000.
DDPM_SAMPLERS: dict[str, dict[str, Any]] = {
    "ddim50": {"sampling.sampler": "ddim", "sampling.respacing": "ddim50", "sampling.num_steps": 50},
    # every 20th level by ancestral steps; the authors' FastDDPM chose its own levels
    "fast50": {"sampling.respacing": "50", "sampling.num_steps": 50},
}

# Rows of Improved DDPM's tables as changes to cosine, L_hybrid, T = 4000.
IDDPM_VARIANTS: dict[str, dict[str, Any]] = {
    "linear": {"schedule.kind": "ddpm_linear"},
    "linear_1k": {"schedule.kind": "ddpm_linear", "schedule.num_timesteps": 1000, "sampling.num_steps": 1000},
    "simple": {"training.weighting": "simple", "model.variance": "beta"},
    "vlb": {"training.weighting": "vlb", "training.times": "importance"},
    "steps100": {"sampling.num_steps": 100},
}

# Either family at a size for two CPU cores; a small-scale run, not the paper's.
DDPM_MINI: dict[str, Any] = {
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
    "evaluation.levels": 32,
    "evaluation.passes": 2,
    "evaluation.batch_size": 50,
    "sampling.num_steps": 100,
    "sampling.num_images": 16,
    "sampling.batch_size": 16,
}


def ddpm_images(name: str, size: int) -> ConfigDict:
    """DDPM's settings for byte images: its U-Net, linear β, T = 1000, variance β, L_simple, Adam without decay."""
    config = byte_images(name, size)
    config.method = "ddpm"
    config.data.augment = ("flip",)
    config.model.network = "multiscale"
    config.model.family = "ddpm"
    config.model.width = 128
    config.model.depth = 2
    config.model.attention_at = (16,)
    config.model.variance = "beta"
    config.schedule.kind = "ddpm_linear"
    config.schedule.num_timesteps = 1000
    config.training.weighting = "simple"
    config.training.times = "independent"
    config.optimizer.warmup_steps = 5000
    config.optimizer.weight_decay = 0.0
    config.optimizer.b2 = 0.999
    config.optimizer.clip = 1.0
    config.evaluation.passes = 4
    config.evaluation.levels = 64
    config.sampling.num_steps = 1000
    config.sampling.clip = True
    return config


def iddpm_images(name: str, size: int) -> ConfigDict:
    """Improved DDPM's settings for byte images: cosine, T = 4000, learned variance, L_hybrid, Adam 1e-4."""
    config = ddpm_images(name, size)
    config.data.augment = ()
    config.model.family = "improved"
    config.model.depth = 3
    config.model.attention_at = (16, 8)
    config.model.heads = 4
    config.model.rescale_time = True
    config.model.variance = "learned"
    config.schedule.kind = "ddpm_cosine"
    config.schedule.num_timesteps = 4000
    config.training.weighting = "hybrid"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 0
    config.optimizer.clip = 0.0
    config.sampling.num_steps = 4000
    return config
