"""Whether a data set is what the config says, before anything is compiled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vdm_jax.data import label_check, resize, say
from vdm_jax.data.datasets import BYTES, Dataset, croppable
from vdm_jax.data.decode import sizes
from vdm_jax.data.replace import allowed
from vdm_jax.data.sources import PROBED, Arrays, OtherSize, Record, labels_of, trait
from vdm_jax.errors import Undecodable, UserError

CHECKED_VALUES = 2**27  # decoded before training or evaluation; up to so many records are all looked at
_LEAST_COST = 2**12  # values that a record costs at least
_THREADS = 8


def check(
    dataset: Dataset,
    shape: Sequence[int],
    vocabulary: int | None,
    *,
    classes: int = 0,
    every: bool = False,
    crops: bool = False,
    examples: int = 0,
    max_undecodable: float | None = None,
) -> None:
    """Raise UserError if the images are not what the config says.

    Compares data.shape and data.vocabulary with the data set, then reads records (arrays and small sets whole, of
    others a few seconds' worth from all over the split) for their dtype, shape and range. Of those that can't be
    decoded, one is enough if every image counts, as in evaluation; else it takes more than `max_undecodable` allows
    (`replace.allowed`) or, where that is None, more than a quarter of a few. classes: the labels must be
    0 … classes − 1, and all of them in training. crops: images may be larger squares. examples: only the first so
    many count; 0 for all.
    """
    larger = crops and croppable(dataset, shape) and dataset.shape[2] == shape[2]
    if tuple(shape) != dataset.shape and not larger:
        raise UserError(_wrong_shape(dataset, tuple(shape)))
    if (vocabulary or None) != dataset.vocabulary:
        raise UserError(
            f"data.vocabulary={vocabulary or 0} but that of {dataset.what} is {dataset.vocabulary or 0}"
            f"{_eight_bits(dataset)}; set --config.data.vocabulary={dataset.vocabulary or 0} or choose other data"
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
    """Reads records among the first `count`: all of them, or as many as cost a few seconds."""
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
    _judge(dataset, bad, len(probed), len(probed) == count, every, share)


def _judge(
    dataset: Dataset, bad: list[Undecodable], read: int, complete: bool, every: bool, share: float | None
) -> None:
    """Raises the first of `bad` if of the records that were read too many are."""
    if not bad:
        return
    if every:
        most, rule = 0.0, "evaluation leaves no image out"
    elif share is None:
        most, rule = read // 4, "more than a quarter"
    else:
        most = allowed(read, share) * (1 if complete else 2)  # of a sample by chance more
        rule = f"more than data.max_undecodable={share:g} allows; repair them, or raise it if they may be replaced"
    words = f"{len(bad):,} of {read:,} {dataset.split} records can't be decoded"
    if len(bad) <= most:
        if complete and share is not None:
            say.once(f"{words}; others replace them in training: {bad[0]}")
        return
    if len(bad) == 1:
        raise bad[0]
    if isinstance(bad[0], OtherSize) and (paths := trait(dataset.source, "paths", ())):
        raise Undecodable(
            f"the images of {dataset.what} are of {resize.span(sizes(paths))}; set --config.data.resize='crop' (or "
            "'pad', 'area', 'bicubic') to make them one size"
        )
    raise Undecodable(f"{words} ({rule}), the first: {bad[0]}")


def _eight_bits(dataset: Dataset) -> str:
    """Why the vocabulary is what it is, of images of 8 bits."""
    return ", as values of 8 bits are 0 to 255" if dataset.vocabulary == BYTES else ""


def _wrong_shape(dataset: Dataset, shape: tuple[int, ...]) -> str:
    """What differs from data.shape and what to do about it."""
    paths = trait(dataset.source, "paths", ())
    if not paths or len(shape) != 3:
        return (
            f"data.shape={shape} but the records of {dataset.what} are {dataset.shape}; "
            f"set --config.data.shape='{dataset.shape}' or choose other data"
        )
    seen = sizes(paths)
    way = f"set --config.data.resize='crop' (or 'pad', 'area', 'bicubic') to make all of them {shape[0]} × {shape[1]}"
    if len(set(seen)) > 1:
        return f"data.shape={shape} but the images of {dataset.what} are of {resize.span(seen)}; {way}"
    return (
        f"data.shape={shape} but the records of {dataset.what} are {dataset.shape}; "
        f"set --config.data.shape='{dataset.shape}', or {way}"
    )


def _check_values(dataset: Dataset, images: np.ndarray, where: str) -> None:
    """images: [N, …]. Their dtype and range against dataset.vocabulary."""
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
            f"{highest}; set --config.data.vocabulary={BYTES}, which suits all images of 8 bits, or to the number of "
            f"levels there are, {highest + 1} or more"
        )
