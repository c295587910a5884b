"""Shared settings of the configs of Denoising Diffusion GANs: image models, ablations and a mini size."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import choose
from vdm_jax.presets.images import byte_images

# Rows of the paper's table 2, as changes to the configs with T = 4.
DDGAN_ABLATIONS: dict[str, dict[str, Any]] = {
    **{f"T{steps}": {"schedule.num_timesteps": steps, "sampling.num_steps": steps} for steps in (1, 2, 4, 8)},
    "augmented": {"training.adversary": "augmented", "sampling.num_steps": 1},
    "direct": {"model.prediction": "previous"},
    "noise": {"model.prediction": "eps"},
    "no_latent": {"model.latent": 0},
}

# Mini size of the same networks for two CPU cores; a small-scale run, not the paper's size.
DDGAN_MINI: dict[str, Any] = {
    "model.width": 32,
    "model.depth": 1,
    "model.groups": 8,
    "model.latent_width": 64,
    "model.mapping_depth": 1,
    "model.discriminator_width": 16,
    "data.batch_size": 32,
    "training.num_steps": 2000,
    "training.log_every": 100,
    "training.sample_every": 500,
    "training.checkpoint_every": 500,
    "optimizer.ema": 0.999,
    "sampling.num_images": 16,
    "sampling.batch_size": 16,
}

# StackedMNIST at 16 × 16 pixels: about one hour on one CPU core.
STACKED_MINI: dict[str, Any] = {
    **DDGAN_MINI,
    "data.shape": (16, 16, 3),
    "model.width": 16,
    "model.multipliers": (1.0, 2.0, 2.0),
    "model.attention_at": (8,),
    "model.discriminator_width": 8,
    "model.discriminator_time": 64,
    "training.num_steps": 10_000,
    "training.r1": 0.05,
    "training.sample_every": 1000,
    "optimizer.learning_rate": 4e-4,
    "optimizer.discriminator_learning_rate": 3e-4,
}


def ddgan(config: ConfigDict, network: str) -> ConfigDict:
    """Apply the settings of Denoising Diffusion GANs to a config (Xiao, Kreis & Vahdat 2022).

    They are T = 4 steps of the VP SDE from t = .001, x̂ = G(z_t, w, t), and Adam(.5, .9) with cosine decay to 1e-5 and
    without gradient clipping.

    Args:
        config: The config, which is changed in place.
        network: Value of `model.network`.

    Returns:
        The same config.
    """
    parts = {
        "method": "ddgan",
        "model.network": network,
        "model.prediction": "x",
        "schedule.kind": "ddgan_vp",
        "optimizer.decay": "cosine",
    }
    choose(config, parts)
    config.schedule.num_timesteps = 4
    config.schedule.t_min = 1e-3
    config.optimizer.b1 = 0.5
    config.optimizer.b2 = 0.9
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip = 0.0
    config.optimizer.warmup_steps = 0
    config.optimizer.final_learning_rate = 1e-5
    config.sampling.num_steps = 4
    return config


def ddgan_images(name: str, size: int) -> ConfigDict:
    """Return the released code's config for byte images, with the values of CIFAR-10 where data sets differ."""
    config = ddgan(byte_images(name, size), "multiscale")
    config.data.augment = ("flip",)
    config.model.width = 128
    config.model.depth = 2
    config.model.attention_at = (16,)
    config.training.log_every = 500
    config.training.sample_every = 10_000
    config.training.checkpoint_every = 5000
    config.optimizer.learning_rate = 1.6e-4
    config.optimizer.discriminator_learning_rate = 1e-4
    return config


def ddgan_large(name: str) -> ConfigDict:
    """Return the config at 256 × 256 pixels: width 64, six resolutions, the large discriminator."""
    config = ddgan_images(name, 256)
    config.model.width = 64
    config.model.multipliers = (1.0, 1.0, 2.0, 2.0, 4.0, 4.0)
    config.model.discriminator = "large"
    config.training.r1_every = 10
    return config
