"""What the configs of guided models share: guided diffusion's networks by resolution, its noisy classifiers and
ablations, and classifier-free guidance, which takes the same networks."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import choose
from vdm_jax.presets.ddpm import DDPM_MINI, MULTISCALE_MINI, iddpm_images
from vdm_jax.presets.images import byte_images

Changes = dict[str, Any]

# Of the U-Net and of the classifier alike.
MULTIPLIERS = {
    64: (1.0, 2.0, 3.0, 4.0),
    128: (1.0, 1.0, 2.0, 3.0, 4.0),
    256: (1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
    512: (0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
}

# Any of the configs without classes: 256x256_diffusion_uncond.pt, the LSUN models.
UNCONDITIONAL: Changes = {"model.num_classes": 0}
# Sampling with 25 steps of DDIM.
DDIM25: Changes = {"sampling.sampler": "ddim", "sampling.respacing": "ddim25", "sampling.num_steps": 25}

# The noisy classifier of the same resolution, at 256 and 512; it has no average of its weights.
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

# Rows of the architecture ablation (tables 1 to 3) on ImageNet 128: `ablation`, then one change or several.
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
# Those that any size of network can have.
SMALL_ABLATIONS: dict[str, Changes] = {
    "heads4": {"model.heads": 4, "model.head_channels": 0},
    "more_attention": {"model.attention_at": (32, 16, 8)},
    "blocks": {"model.resample_blocks": True},
    "rescaled": {"model.rescale": True},
    "added_embedding": {"model.scale_shift": False},
}

# The same networks at a size for two CPU cores and 32 × 32 images in ten classes; not the paper's.
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
    """Guided diffusion's settings for byte images in 1,000 classes: linear β, T = 1000, learned variance, L_hybrid with
    λ = 1/T, Adam 1e-4, batch 256, EMA .9999, flips, 250 of the levels for samples."""
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
    """Guided diffusion's settings for a DDPM that is given the image at a lower resolution: 192 channels."""
    config = choose(adm_images(name, size), {"model.low_resolution": low_resolution})
    config.model.width = 192
    config.model.multipliers = MULTIPLIERS[256]
    return config


# The same networks at a size for two CPU cores and the digits of the package.
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

# p_uncond of the paper's table 1, and a size for looking at guidance on two CPU cores.
CFG_VARIANTS: dict[str, Changes] = {
    "p20": {"training.label_dropout": 0.2},
    "p50": {"training.label_dropout": 0.5},
    "mini": {**_DIGITS_MINI, "sampling.guidance": (0.0, 1.0, 4.0)},
}


def cfg_images(name: str, size: int) -> ConfigDict:
    """Classifier-free guidance's settings (Ho & Salimans 2022): ε-prediction, L_simple, the truncated cosine with λ
    from 20 to −20 in continuous time, guided diffusion's U-Net told 1,000 labels, one in ten of them dropped."""
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
