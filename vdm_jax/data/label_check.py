"""Checks that the labels of a data set match config.model.num_classes."""

from __future__ import annotations

import numpy as np

from vdm_jax.data import messages
from vdm_jax.data.datasets import Dataset
from vdm_jax.data.sources import trait
from vdm_jax.errors import UserError

TRAINED_ON = ("train", "fit")


def check_all(dataset: Dataset, labels: np.ndarray | None, classes: int, *, training: bool) -> None:
    """Check all labels of a split, [N], or None if it has none; a training split needs every class.

    Raises:
        UserError: If labels are missing, out of range, or end before the last class.
    """
    check_some(dataset, labels, classes)
    if labels is None or not training or dataset.split not in TRAINED_ON:
        return
    missing = np.setdiff1d(np.arange(classes), labels)
    if not len(missing):
        return
    named = ", ".join(_name(dataset, int(k)) for k in missing[:3]) + (", …" if len(missing) > 3 else "")
    highest = int(labels.max())
    if highest < classes - 1:
        raise UserError(
            f"config.model.num_classes={classes} but the labels of {_split(dataset)} are 0 to {highest}, so no "
            f"image would train class {named}; set --config.model.num_classes={highest + 1}"
        )
    messages.once(f"no image of {_split(dataset)} has class {named}, which config.model.num_classes={classes} includes")


def check_some(dataset: Dataset, labels: np.ndarray | None, classes: int) -> None:
    """Check the labels of some records, [N], or None if they have none.

    Raises:
        UserError: If labels are missing or out of range.
    """
    if labels is None:
        reason = trait(dataset.source, "no_labels", "")
        raise UserError(
            f"config.model.num_classes={classes} but {_split(dataset)} has no labels"
            f"{f' ({reason})' if reason else ''}; set it to 0 or choose other data"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(
            f"config.model.num_classes={classes} allows labels 0 to {classes - 1} but {_split(dataset)} has "
            f"{low if low < 0 else high}; set --config.model.num_classes={max(high + 1, 1)}"
            + (" and number the labels from 0" if low < 0 else "")
        )
    known = len(trait(dataset.source, "all_labels", ()))
    if known and known < classes:
        raise UserError(
            f"config.model.num_classes={classes} but {dataset.what} has {known} classes, and no image would train the "
            f"others; set --config.model.num_classes={known}"
        )


def _split(dataset: Dataset) -> str:
    return f"the {dataset.split} split of {dataset.what}"


def _name(dataset: Dataset, label: int) -> str:
    """Return '3', or '3 (cat)' if classes have names."""
    return f"{label} ({dataset.class_names[label]})" if label in dataset.class_names else f"{label}"
