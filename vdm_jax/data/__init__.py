"""Named data sets, augmentations and the input pipeline."""

from vdm_jax.data.datasets import SPLITS, Dataset, check, from_section, load, names, whole
from vdm_jax.data.pipeline import eval_batches, images_per_second, train_iterator

__all__ = [
    "SPLITS",
    "Dataset",
    "check",
    "eval_batches",
    "from_section",
    "images_per_second",
    "load",
    "names",
    "train_iterator",
    "whole",
]
