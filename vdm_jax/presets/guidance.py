"""Shared settings of the configs of guided models.

They are guided diffusion's networks by resolution, its noisy classifiers and ablations, and classifier-free guidance,
which uses the same networks.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import choose
from vdm_jax.presets.ddpm import DDPM_MINI, MULTISCALE_MINI, iddpm_images
from vdm_jax.presets.images import byte_images

Changes = dict[str, Any]

# Channel multipliers of the U-Net and of the classifier by image size.
MULTIPLIERS = {
    64: (1.0, 2.0, 3.0, 4.0),
    128: (1.0, 1.0, 2.0, 3.0, 4.0),
    256: (1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
    512: (0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
}

# Unconditional variant of the configs: 256x256_diffusion_uncond.pt and the LSUN models.
UNCONDITIONAL: Changes = {"model.num_classes": 0}
# Sampling with 25 steps of DDIM.
DDIM25: Changes = {"sampling.sampler": "ddim", "sampling.respacing": "ddim25", "sampling.num_steps": 25}

# The noisy classifier of the same resolution, at 256 and 512 pixels; it has no EMA weights.
CLASSIFIER: Changes = {
    "method": "classifier",
    "data.batch_size": 256,
    "data.augment": ("flip", "crop"),
    "model.width": 128,
    "model.depth": 2,
    "model.heads": 1,
    "model.head_channels": 64,
    "model.dropout": 0.0,
    "model.qkv_order": "legacy",
    "training.num_steps": 500_000,
    "optimizer.decay": "linear",
    "optimizer.weight_decay": 0.05,
    "optimizer.learning_rate": 3e-4,
    "evaluation.weights": "raw",
}

# Rows of the architecture ablation (tables 1 to 3) on ImageNet 128: `ablation`, then one or several of the changes.
_ABLATION_BASE: Changes = {
    "model.width": 160,
    "model.heads": 1,
    "model.head_channels": 0,
    "model.attention_at": (16,),
    "model.resample_blocks": False,
    "training.num_steps": 700_000,
}
ABLATIONS: dict[str, Changes] = {
    "ablation": _ABLATION_BASE,
    "deeper": {"model.width": 128, "model.depth": 4},
    **{f"per_head{n}": {"model.width": 128, "model.heads": 1, "model.head_channels": n} for n in (32, 64)},
}
# Ablations that apply to networks of any size.
SMALL_ABLATIONS: dict[str, Changes] = {
    "heads4": {"model.heads": 4, "model.head_channels": 0},
    "more_attention": {"model.attention_at": (32, 16, 8)},
    "blocks": {"model.resample_blocks": True},
    "rescaled": {"model.rescale": True},
    "added_embedding": {"model.scale_shift": False},
}

# Mini size of the same networks for two CPU cores and 32 × 32 images in ten classes; not the paper's size.
ADM_MINI: Changes = {
    **DDPM_MINI,
    "data.name": "cifar10",
    "data.shape": (32, 32, 3),
    "model.num_classes": 10,
    "model.multipliers": (1.0, 2.0, 2.0),
    "model.attention_at": (8,),
    "model.heads": 1,
    "model.head_channels": 16,
    "model.dropout": 0.0,
    "sampling.respacing": "100",
}


def adm_images(name: str, size: int) -> ConfigDict:
    """Return guided diffusion's config for byte images in 1,000 classes (Dhariwal & Nichol 2021).

    It has linear β, T = 1000, a learned variance, L_hybrid with λ = 1/T, Adam with learning rate 1e-4, batch size 256,
    EMA .9999, random flips, and 250 sampling steps.
    """
    parts = {"model.family": "adm", "model.num_classes": 1000, "schedule.kind": "ddpm_linear"}
    config = choose(iddpm_images(name, size), parts)
    config.data.batch_size = 256
    config.data.augment = ("flip",)
    config.model.width = 256
    config.model.depth = 2
    config.model.multipliers = MULTIPLIERS[size]
    config.model.attention_at = (32, 16, 8)
    config.model.heads = 1
    config.model.head_channels = 64
    config.model.qkv_order = "legacy"
    config.model.rescale_time = False
    config.schedule.num_timesteps = 1000
    config.sampling.respacing = "250"
    config.sampling.num_steps = 250
    return config


def adm_upsampler(name: str, size: int, low_resolution: int) -> ConfigDict:
    """Return guided diffusion's config of an upsampler, conditioned on the image at `low_resolution` pixels."""
    config = choose(adm_images(name, size), {"model.low_resolution": low_resolution})
    config.model.width = 192
    config.model.multipliers = MULTIPLIERS[256]
    return config


# Mini size of the same networks for two CPU cores and the digits data set of this package.
_DIGITS_MINI: Changes = {
    **MULTISCALE_MINI,
    "data.name": "digits",
    "data.shape": (8, 8, 1),
    "data.vocabulary": 17,
    "data.augment": (),
    "model.multipliers": (1.0, 2.0),
    "model.attention_at": (4,),
    "model.heads": 2,
    "model.head_channels": 0,
    "model.num_classes": 10,
    "sampling.num_images": 20,
    "sampling.batch_size": 20,
}
UPSAMPLER_MINI: Changes = {
    **_DIGITS_MINI,
    "model.low_resolution": 4,
    "evaluation.levels": 32,
    "sampling.respacing": "100",
}

# p_uncond of the paper's table 1, and a mini size to study guidance on two CPU cores.
CFG_VARIANTS: dict[str, Changes] = {
    "p20": {"training.label_dropout": 0.2},
    "p50": {"training.label_dropout": 0.5},
    "mini": {**_DIGITS_MINI, "sampling.guidance": (0.0, 1.0, 4.0)},
}


def cfg_images(name: str, size: int) -> ConfigDict:
    """Return the config of classifier-free guidance for byte images (Ho & Salimans 2022).

    It has ε-prediction, L_simple, the truncated cosine schedule with λ from 20 to −20 in continuous time, and guided
    diffusion's U-Net conditioned on 1,000 labels, which are dropped with probability 0.1.
    """
    parts = {
        "model.network": "multiscale",
        "model.family": "adm",
        "model.num_classes": 1000,
        "model.null_class": True,
        "schedule.kind": "cosine",
        "training.weighting": "simple",
        "sampling.clip": True,
    }
    config = choose(byte_images(name, size), parts)
    config.data.augment = ("flip",)
    config.model.depth = 2
    config.model.multipliers = MULTIPLIERS[size]
    config.model.attention_at = (32, 16, 8)
    config.schedule.gamma_0 = -20.0
    config.schedule.gamma_1 = 20.0
    config.training.label_dropout = 0.1
    config.optimizer.weight_decay = 0.0
    config.optimizer.b2 = 0.999
    config.optimizer.clip = 0.0
    config.evaluation.passes = 4
    config.sampling.num_steps = 256
    config.sampling.guidance = (0.1,)
    return config
