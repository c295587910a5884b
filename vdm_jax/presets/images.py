"""Shared settings of all configs of byte images."""

from __future__ import annotations

from ml_collections import ConfigDict

from vdm_jax.config import base


def byte_images(name: str, size: int) -> ConfigDict:
    """Return a config for RGB byte images of `size` × `size` pixels: batch size 128, logging intervals of long runs."""
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
