"""Checks that a data set matches the config, before anything is compiled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vdm_jax.data import label_check, messages, resize
from vdm_jax.data.captioning import has_captions
from vdm_jax.data.datasets import BYTES, Dataset, croppable
from vdm_jax.data.decode import sizes
from vdm_jax.data.replace import allowed
from vdm_jax.data.sources import PROBED, Arrays, OtherSize, Record, labels_of, trait
from vdm_jax.errors import Undecodable, UserError

CHECKED_VALUES = 2**27  # values decoded before training or evaluation; a smaller data set is checked completely
_LEAST_COST = 2**12  # the lowest cost of a record, in values
_THREADS = 8


def check(
    dataset: Dataset,
    shape: Sequence[int],
    vocabulary: int | None,
    *,
    classes: int = 0,
    captions: bool = False,
    every: bool = False,
    crops: bool = False,
    examples: int = 0,
    max_undecodable: float | None = None,
) -> None:
    """Check that the records of a data set match the config.

    The check compares data.shape and data.vocabulary with the data set. Then it reads records and checks their dtype,
    shape, and range. It reads all records of arrays and of small data sets, and a sample that takes a few seconds,
    spread evenly over the split, of others.

    Args:
        dataset: The data set.
        shape: data.shape.
        vocabulary: data.vocabulary; None or 0 for continuous points.
        classes: The number of classes; labels must be 0 … classes − 1, and training needs every class. 0 skips the
            labels.
        captions: Whether the records need captions.
        every: Whether every image counts, as in evaluation, so that a single undecodable record is an error.
        crops: Whether images may be squares larger than `shape`, to be cropped.
        examples: Check only the first `examples` records; 0 for all.
        max_undecodable: data.max_undecodable, the share of records that may be undecodable (`replace.allowed`). With
            None, the check reads a few records and fails if more than a quarter of them is undecodable.

    Raises:
        UserError: If the records do not match; the sentence names the config field.
    """
    larger = crops and croppable(dataset, shape) and dataset.shape[2] == shape[2]
    if tuple(shape) != dataset.shape and not larger:
        raise UserError(_wrong_shape(dataset, tuple(shape)))
    if (vocabulary or None) != dataset.vocabulary:
        raise UserError(
            f"data.vocabulary={vocabulary or 0} but {dataset.what} has vocabulary {dataset.vocabulary or 0}"
            f"{_eight_bits(dataset)}; set --config.data.vocabulary={dataset.vocabulary or 0} or choose other data"
        )
    if captions and not has_captions(dataset.source):
        raise UserError(
            f"{dataset.what} has no captions, which config.method needs; set config.data.name to 'shapes', 'emoji', or "
            "'captions' with your images and texts"
        )
    if isinstance(dataset.source, Arrays):
        _check_values(dataset, dataset.source.images, "")
    labels = labels_of(dataset.source)
    if classes and (labels is not None or trait(dataset.source, "no_labels", "")):
        label_check.check_all(dataset, labels, classes, training=not every)
    elif classes and isinstance(dataset.source, Arrays):
        label_check.check_all(dataset, None, classes, training=not every)
    if not isinstance(dataset.source, Arrays):
        count = min(examples or dataset.num_examples, dataset.num_examples)
        _check_records(dataset, count, classes if labels is None else 0, every, max_undecodable)


def _check_records(dataset: Dataset, count: int, classes: int, every: bool, share: float | None) -> None:
    """Read and check the first `count` records, or an evenly spread sample that takes a few seconds."""
    cost = max(math.prod(dataset.shape), trait(dataset.source, "cost", 0), _LEAST_COST)
    most = PROBED if share is None and not every else max(PROBED, CHECKED_VALUES // cost)
    probed = np.unique(np.linspace(0, count - 1, min(most, count)).astype(int)).tolist()
    bad: list[Undecodable] = []

    def read(index: int) -> Record | Undecodable:
        try:
            return dataset.source[index]
        except Undecodable as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        for index, record in zip(probed, pool.map(read, probed), strict=True):
            if isinstance(record, Undecodable):
                bad.append(record)
                continue
            _check_values(dataset, record["image"][None], f"record {index} of ")
            if classes:
                labels = np.asarray([record["label"]]) if "label" in record else None
                label_check.check_some(dataset, labels, classes)
    _check_undecodable(dataset, bad, len(probed), len(probed) == count, every, share)


def _check_undecodable(
    dataset: Dataset, bad: list[Undecodable], read: int, complete: bool, every: bool, share: float | None
) -> None:
    """Raise an Undecodable error if too many of the `read` records are undecodable."""
    if not bad:
        return
    if every:
        most, rule = 0.0, "evaluation needs every image"
    elif share is None:
        most, rule = read // 4, "more than a quarter"
    else:
        most = allowed(read, share) * (1 if complete else 2)  # a sample may exceed the share by chance
        rule = f"more than data.max_undecodable={share:g} allows; repair them, or raise it if they may be replaced"
    words = f"{len(bad):,} of {read:,} {dataset.split} records can't be decoded"
    if len(bad) <= most:
        if complete and share is not None:
            messages.once(f"{words}; others replace them in training: {bad[0]}")
        return
    if len(bad) == 1:
        raise bad[0]
    if isinstance(bad[0], OtherSize) and (paths := trait(dataset.source, "paths", ())):
        raise Undecodable(
            f"the images of {dataset.what} have {resize.span(sizes(paths))}; set --config.data.resize='crop' (or "
            "'pad', 'area', 'bicubic') to make them one size"
        )
    raise Undecodable(f"{words} ({rule}), the first: {bad[0]}")


def _eight_bits(dataset: Dataset) -> str:
    """Return the reason for a vocabulary of 256, as a clause; '' for other vocabularies."""
    return ", because 8-bit values are 0 to 255" if dataset.vocabulary == BYTES else ""


def _wrong_shape(dataset: Dataset, shape: tuple[int, ...]) -> str:
    """Return the error sentence for records whose shape differs from data.shape."""
    paths = trait(dataset.source, "paths", ())
    if not paths or len(shape) != 3:
        return (
            f"data.shape={shape} but the records of {dataset.what} are {dataset.shape}; "
            f"set --config.data.shape='{dataset.shape}' or choose other data"
        )
    seen = sizes(paths)
    way = f"set --config.data.resize='crop' (or 'pad', 'area', 'bicubic') to make all of them {shape[0]} × {shape[1]}"
    if len(set(seen)) > 1:
        return f"data.shape={shape} but the images of {dataset.what} have {resize.span(seen)}; {way}"
    return (
        f"data.shape={shape} but the records of {dataset.what} are {dataset.shape}; "
        f"set --config.data.shape='{dataset.shape}', or {way}"
    )


def _check_values(dataset: Dataset, images: np.ndarray, where: str) -> None:
    """Check the dtype and range of images [N, …] against dataset.vocabulary."""
    what = f"{where}the {dataset.split} split of {dataset.what}"
    if dataset.vocabulary is None:
        if images.dtype != np.float32:
            raise UserError(f"{what} is {images.dtype}, not float32; convert it")
        if not np.isfinite(images).all():
            raise UserError(f"{what} holds NaN or infinite values; remove them")
        return
    if images.dtype != np.uint8:
        raise UserError(f"{what} is {images.dtype}, not uint8; convert it")
    highest = int(images.max())
    if highest >= dataset.vocabulary:
        raise UserError(
            f"data.vocabulary={dataset.vocabulary} allows values up to {dataset.vocabulary - 1} but {what} holds "
            f"{highest}; set --config.data.vocabulary={BYTES}, which fits all 8-bit images, or to the number of "
            f"values that a pixel can have, {highest + 1} or more"
        )
