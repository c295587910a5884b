"""Shared settings of the configs of CLIP (Radford et al. 2021, tables 18 to 20), and of small ones."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import base, choose

# Image towers: network, side in pixels, width, and depth and heads or the blocks of four stages, embedding, text width.
TOWERS: dict[str, tuple[str, int, int, tuple[int, ...], int, int]] = {
    "RN50": ("resnet", 224, 64, (3, 4, 6, 3), 1024, 512),
    "RN101": ("resnet", 224, 64, (3, 4, 23, 3), 512, 512),
    "RN50x4": ("resnet", 288, 80, (4, 6, 10, 6), 640, 640),
    "RN50x16": ("resnet", 384, 96, (6, 8, 18, 8), 768, 768),
    "RN50x64": ("resnet", 448, 128, (3, 15, 36, 10), 1024, 1024),
    "ViT-B/32": ("vit", 224, 768, (12, 12), 512, 512),
    "ViT-B/16": ("vit", 224, 768, (12, 12), 512, 512),
    "ViT-L/14": ("vit", 224, 1024, (24, 16), 768, 768),
    "ViT-L/14@336px": ("vit", 336, 1024, (24, 16), 768, 768),
}
_PATCHES = {"ViT-B/32": 32, "ViT-B/16": 16, "ViT-L/14": 14, "ViT-L/14@336px": 14}
HEAD = 64  # channels of an attention head of the text tower
EXAMPLES = 32 * 400_000_000  # 32 epochs of WebImageText

# Mini size of the same models for two CPU cores, on data of the package.
MINI: dict[str, Any] = {
    "data.name": "shapes",
    "data.shape": (32, 32, 3),
    "data.batch_size": 64,
    "data.augment": (),
    "data.resize": "",
    "data.tokenizer": "bpe",
    "model.embedding": 64,
    "model.text_width": 64,
    "model.text_depth": 2,
    "model.text_heads": 2,
    "model.context": 16,
    "model.vocabulary": 512,
    "training.num_steps": 600,
    "training.log_every": 50,
    "training.checkpoint_every": 200,
    "training.mask_same_captions": True,
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup_steps": 50,
    "evaluation.examples": 1000,
    "evaluation.batch_size": 64,
    "evaluation.candidates": 256,
}
VIT_MINI = {**MINI, "model.width": 64, "model.depth": 3, "model.heads": 2, "model.patch": 8}
RESNET_MINI = {**MINI, "model.width": 8, "model.depths": (1, 1, 1, 1)}


def clip(name: str, learning_rate: float) -> ConfigDict:
    """Return the settings of a published CLIP.

    They are a global batch of 32,768, 32 epochs of 400 million pairs, Adam with decoupled weight decay 0.2, a warm-up
    of 2,000 steps and a cosine decay, β₂ and ε by the kind of image tower, and random square crops. The weights were
    trained without a moving average, and in mixed precision.

    Args:
        name: A key of TOWERS.
        learning_rate: The peak learning rate.
    """
    network, side, width, blocks, embedding, text_width = TOWERS[name]
    is_vit = network == "vit"
    parts = {"method": "clip", "model.network": network, "data.name": "captions", "data.shape": (side, side, 3)}
    config = choose(base(), {**parts, "data.vocabulary": 256, "evaluation.weights": "raw"})
    config.data.batch_size = 32_768
    config.data.augment = ("crop",)
    config.data.tokenizer = "clip"
    config.model.width = width
    config.model.embedding = embedding
    config.model.text_width = text_width
    config.model.text_depth = 12
    config.model.text_heads = text_width // HEAD
    config.model.dtype = "bfloat16"
    if is_vit:
        config.model.depth, config.model.heads = blocks
        config.model.patch = _PATCHES[name]
    else:
        config.model.depths = blocks
    config.training.num_steps = EXAMPLES // config.data.batch_size
    config.training.log_every = 100
    config.training.checkpoint_every = 5000
    config.optimizer.learning_rate = learning_rate
    config.optimizer.warmup_steps = 2000
    config.optimizer.decay = "cosine"
    config.optimizer.weight_decay = 0.2
    config.optimizer.b2 = 0.98 if is_vit else 0.999
    config.optimizer.eps = 1e-6 if is_vit else 1e-8
    config.optimizer.clip = 0.0
    config.evaluation.batch_size = 1024
    return config


def small_clip(name: str, side: int) -> ConfigDict:
    """Return a small CLIP for two CPU cores: a ViT of width 64 after convolutions, and a byte-pair encoding of its own.

    Args:
        name: Data set.
        side: Height and width of its images in pixels; a patch is an eighth of it.
    """
    parts = {"method": "clip", "model.network": "vit", "data.name": name, "data.shape": (side, side, 3)}
    config = choose(base(), {**parts, "data.vocabulary": 256})
    config.data.batch_size = 256
    config.data.tokenizer = "bpe"
    config.model.width = 64
    config.model.depth = 3
    config.model.heads = 2
    config.model.patch = side // 8
    config.model.stem = "convolutions"
    config.model.embedding = 64
    config.model.text_width = 64
    config.model.text_depth = 2
    config.model.text_heads = 2
    config.model.context = 16
    config.model.vocabulary = 512
    config.model.gelu = "erf"
    config.training.num_steps = 600
    config.training.log_every = 50
    config.training.checkpoint_every = 200
    config.training.mask_same_captions = True
    config.optimizer.learning_rate = 2e-3
    config.optimizer.decay = "cosine"
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-6
    config.optimizer.weight_decay = 0.1
    config.evaluation.batch_size = 256
    config.evaluation.candidates = 256
    return config


# A noised CLIP that guides diffusions on the table of Improved DDPM.
NOISED: dict[str, Any] = {
    "model.noised": True,
    "schedule.kind": "ddpm_cosine",
    "schedule.num_timesteps": 1000,
    "training.times": "stratified",
}
SMOKE: dict[str, Any] = {
    "training.num_steps": 20,
    "training.log_every": 10,
    "data.batch_size": 32,
    "model.width": 16,
    "model.depth": 1,
    "model.text_width": 16,
    "model.text_depth": 1,
    "model.embedding": 16,
    "evaluation.examples": 256,
    "evaluation.candidates": 64,
    "evaluation.draws": 2,
}
