"""Named data sets, augmentations and the input pipeline."""

from vdm_jax.data.checking import check
from vdm_jax.data.datasets import SPLITS, Dataset, from_section, load, names, whole
from vdm_jax.data.identity import difference
from vdm_jax.data.pipeline import eval_batches, images_per_second, train_iterator
from vdm_jax.data.replace import allowed, forgiven

__all__ = [
    "SPLITS",
    "Dataset",
    "allowed",
    "check",
    "difference",
    "eval_batches",
    "forgiven",
    "from_section",
    "images_per_second",
    "load",
    "names",
    "train_iterator",
    "whole",
]
