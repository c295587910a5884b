"""Whether the labels of a data set are those that config.model.num_classes says."""

from __future__ import annotations

import numpy as np

from vdm_jax.data import say
from vdm_jax.data.datasets import Dataset
from vdm_jax.data.sources import trait
from vdm_jax.errors import UserError

TRAINED_ON = ("train", "fit")


def check_all(dataset: Dataset, labels: np.ndarray | None, classes: int, *, training: bool) -> None:
    """labels: [N], all of the split, or None. In training every class needs one."""
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
            f"config.model.num_classes={classes} but the labels of {_split(dataset)} are 0 to {highest}, so nothing "
            f"would train class {named}; set --config.model.num_classes={highest + 1}"
        )
    say.once(f"no image of {_split(dataset)} is of class {named}, which config.model.num_classes={classes} includes")


def check_some(dataset: Dataset, labels: np.ndarray | None, classes: int) -> None:
    """labels: [N], of some records, or None. Whether there are any, and their range."""
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
            f"config.model.num_classes={classes} but {dataset.what} has {known} classes, and nothing would train the "
            f"others; set --config.model.num_classes={known}"
        )


def _split(dataset: Dataset) -> str:
    return f"the {dataset.split} split of {dataset.what}"


def _name(dataset: Dataset, label: int) -> str:
    """'3', or '3 (cat)' where classes have names."""
    return f"{label} ({dataset.class_names[label]})" if label in dataset.class_names else f"{label}"
