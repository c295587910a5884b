"""Named data sets, augmentations and the input pipeline."""

from vdm_jax.data.datasets import SPLITS, Dataset, check, load, names
from vdm_jax.data.pipeline import eval_batches, train_iterator

__all__ = [
    "SPLITS",
    "Dataset",
    "check",
    "eval_batches",
    "load",
    "names",
    "train_iterator",
]
