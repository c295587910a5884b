"""Shared settings of the configs of Variational Diffusion Models."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.presets.images import byte_images

# Rows of VDM's ablations (table 2 and figure 4), as changes to any of its image configs.
# T… trains and evaluates the discrete bound; 'simple' is the weighting behind the FID of 4.0.
VDM_ABLATIONS: dict[str, dict[str, Any]] = {
    **{
        f"T{steps}": {"training.num_timesteps": steps, "evaluation.num_timesteps": steps}
        for steps in (10, 100, 250, 500, 1000)
    },
    "no_fourier": {"model.fourier": ()},
    "fixed": {"schedule.kind": "linear"},
    "monotone": {"schedule.kind": "learned_monotone"},
    "minimize_variance": {"schedule.kind": "learned_monotone", "schedule.minimize_variance": True},
    "simple": {"training.weighting": "simple", "schedule.kind": "cosine"},
}

# Mini size of the same models for two CPU cores; a small-scale run, not the paper's size.
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


def vdm_images(name: str, size: int, *, width: int, depth: int) -> ConfigDict:
    """Return the original release's config for byte images (Kingma et al. 2021).

    It has AdamW with learning rate 2e-4, 100 steps of warm-up, no gradient clipping, EMA .9999, dropout .1, γ learned
    as a line from −13.3 to 5, and Fourier features n = 7, 8.

    Args:
        name: Data set.
        size: Height and width of the images in pixels.
        width: Channels of the U-Net.
        depth: Blocks on each side of the U-Net.
    """
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


# Faster training of the same network at the mini size (experiments/vdm/recipe.py). At depth 32 and width 128 these
# learning rates were unstable in a short stress run, and 1e-3 was stable: use ≤ 1e-3 and ≥ 1,000 steps of warm-up.
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
