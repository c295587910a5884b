"""CLIP on `shapes`: pictures of one or two colored shapes with captions, drawn by the package. No download.

python -m vdm_jax.main --config=configs/clip_shapes.py --workdir=runs/clip_shapes
"""

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import base, choose, with_variant

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {
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
    },
    "held_out": {"data.name": "shapes_held_out"},
    "noised": {"model.noised": True},
}


def get_config(variant: str = "") -> ConfigDict:
    parts = {
        "method": "clip",
        "model.network": "vit",
        "data.name": "shapes",
        "data.shape": (32, 32, 3),
        "data.vocabulary": 256,
    }
    config = choose(base(), parts)
    config.data.batch_size = 256
    config.data.tokenizer = "bpe"
    config.model.width = 64
    config.model.depth = 3
    config.model.heads = 2
    config.model.patch = 4
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
    return with_variant(config, variant, VARIANTS)
