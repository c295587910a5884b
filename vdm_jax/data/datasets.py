"""Data sets by name: `load('digits', 'train')`.

Splits: 'train' is all of the training images, 'fit' and 'tune' are its two parts (the last tenth,
at most 5,000, is for tuning), 'test' is what numbers are reported on. ImageNet's validation images
are 'test', as in the papers.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.data import arrays, crop, folder, imagenet, named, stacked
from vdm_jax.data.sources import PROBED, Arrays, Mapped, Source, first_decodable, labels_of, take
from vdm_jax.errors import Undecodable, UserError

SPLITS = ("train", "fit", "tune", "test")
BYTES = 256
MAX_TUNE = 5000

Reader = Callable[[str, str, Sequence[int] | None], tuple[Source, str]]

_READERS: dict[str, Reader] = {
    "digits": arrays.digits,
    "swirl": arrays.swirl,
    "gaussians25": arrays.gaussians25,
    "mnist": partial(named.read_idx_set, name="mnist"),
    "fashion_mnist": partial(named.read_idx_set, name="fashion_mnist"),
    "stacked_mnist": stacked.stacked_mnist,
    "cifar10": named.read_cifar10,
    "imagenet32": partial(imagenet.read_old, size=32),
    "imagenet64": partial(imagenet.read_old, size=64),
    "imagenet32_resized": partial(imagenet.read_new, size=32),
    "imagenet64_resized": partial(imagenet.read_new, size=64),
    "npz": arrays.npz,
    "folder": folder.read,
}
_BY_PATH = ("npz", "folder")  # the user says what these hold


class Dataset(NamedTuple):
    """One split of a data set, and exactly which one it is."""

    source: Any  # random access to {"image": uint8 [H, W, C] or float32 [D]}, "label" if it has any
    name: str
    version: str
    split: str
    shape: tuple[int, ...]
    vocabulary: int | None  # pixel values are 0 … vocabulary - 1; None for continuous points

    @property
    def num_examples(self) -> int:
        """Records in this split."""
        return len(self.source)

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must find again."""
        return {"name": self.name, "version": self.version, "examples": self.num_examples}


def from_section(section: Any, split: str) -> Dataset:
    """The split of the data set that a config's `data` section describes."""
    return load(
        section.name,
        split,
        path=section.path,
        shape=tuple(section.shape),
        vocabulary=section.vocabulary or None,
    )


def names() -> tuple[str, ...]:
    """The legal values of data.name."""
    return tuple(_READERS)


def load(
    name: str,
    split: str,
    *,
    path: str = "",
    shape: Sequence[int] | None = None,
    vocabulary: int | None = None,
) -> Dataset:
    """Open one split of a data set.

    path: where it lies, for those that don't ship with the package. shape, vocabulary: what 'npz'
    and 'folder' hold; the others know. Raises UserError when it isn't there or isn't whole, with
    what to run or fetch.
    """
    _known("data.name", name, names())
    _known("split", split, SPLITS)
    source, version = _READERS[name]("test" if split == "test" else "train", path, shape)
    if len(source) == 0:
        raise UserError(f"the {split} split of {name} ({version}) is empty; check data.path={path!r}")
    if split in ("fit", "tune"):
        source = _carve(source, split, name)
    image = first_decodable(lambda index: source[index]["image"], len(source))
    return Dataset(source, name, version, split, image.shape, _vocabulary(name, image, vocabulary))


def _known(field: str, value: str, legal: Sequence[str]) -> None:
    if value not in legal:
        near = difflib.get_close_matches(value, legal, n=1, cutoff=0.0)[0]
        raise UserError(f"{field}={value!r} is not one of {', '.join(legal)}; did you mean {near!r}?")


def _carve(source: Source, split: str, name: str) -> Source:
    """'fit' or 'tune': the training records without, or only, the last tenth (at most MAX_TUNE)."""
    held = min(len(source) // 10, MAX_TUNE)
    if held == 0:
        raise UserError(f"{name} has {len(source)} training records, too few to hold out a tenth")
    cut = len(source) - held
    return take(source, np.arange(cut) if split == "fit" else np.arange(cut, len(source)))


def _vocabulary(name: str, image: np.ndarray, given: int | None) -> int | None:
    if image.dtype != np.uint8:
        return None
    if name == "digits":
        return arrays.DIGITS_VOCABULARY
    return given or BYTES if name in _BY_PATH else BYTES


def whole(dataset: Dataset, shape: Sequence[int]) -> Dataset:
    """The data set with images of that shape; larger ones, as crops are taken of, whole and resized to it."""
    if not _croppable(dataset, shape) or dataset.vocabulary is None:
        return dataset
    source = Mapped(dataset.source, partial(crop.whole, size=shape[0], highest=dataset.vocabulary - 1))
    return dataset._replace(source=source, shape=tuple(shape))


def _croppable(dataset: Dataset, shape: Sequence[int]) -> bool:
    """Whether the images are squares, larger than those of that shape."""
    return len(dataset.shape) == 3 and dataset.shape[0] == dataset.shape[1] > shape[0] == shape[1]


def check(
    dataset: Dataset,
    shape: Sequence[int],
    vocabulary: int | None,
    *,
    classes: int = 0,
    every: bool = False,
    crops: bool = False,
) -> None:
    """Raise UserError if the images are not what the config says.

    Compares data.shape and data.vocabulary with the data set, then reads records (arrays whole,
    files a few from all over the split) for their dtype, shape and range. Of those that can't be
    decoded, one is enough if every image counts, as in evaluation; else it takes a quarter of them.
    classes: the labels must be 0 … classes − 1. crops: images may be larger squares.
    """
    what = f"{dataset.name} ({dataset.version})"
    larger = crops and _croppable(dataset, shape) and dataset.shape[2] == shape[2]
    if tuple(shape) != dataset.shape and not larger:
        raise UserError(
            f"data.shape={tuple(shape)} but the records of {what} are {dataset.shape}; "
            f"set --config.data.shape='{dataset.shape}' or choose other data"
        )
    if (vocabulary or None) != dataset.vocabulary:
        raise UserError(
            f"data.vocabulary={vocabulary} but that of {what} is {dataset.vocabulary}; "
            f"set --config.data.vocabulary={dataset.vocabulary} or choose other data"
        )
    if isinstance(dataset.source, Arrays):
        _check_values(dataset, dataset.source.images, "")
        if classes:
            _check_labels(dataset, dataset.source.labels, classes)
        return
    labels = labels_of(dataset.source)
    if classes and labels is not None:
        _check_labels(dataset, labels, classes)
    count = dataset.num_examples
    probed = np.unique(np.linspace(0, count - 1, min(PROBED, count)).astype(int))
    bad: list[Undecodable] = []
    for index in probed:
        try:
            record = dataset.source[int(index)]
        except Undecodable as error:
            bad.append(error)
        else:
            _check_values(dataset, record["image"][None], f"record {index} of ")
            if classes and labels is None:
                _check_labels(dataset, np.asarray([record["label"]]) if "label" in record else None, classes)
    if len(bad) > (0 if every else len(probed) // 4):
        raise bad[0]


def _check_labels(dataset: Dataset, labels: np.ndarray | None, classes: int) -> None:
    """labels: [N] or None. Whether there are any, and their range."""
    what = f"the {dataset.split} split of {dataset.name} ({dataset.version})"
    if labels is None:
        raise UserError(
            f"config.model.num_classes={classes} but {what} has no labels; set it to 0 or choose other data"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(
            f"config.model.num_classes={classes} allows labels 0 to {classes - 1} but {what} has "
            f"{low if low < 0 else high}; set --config.model.num_classes={max(high + 1, 1)}"
            + (" and number the labels from 0" if low < 0 else "")
        )


def _check_values(dataset: Dataset, images: np.ndarray, where: str) -> None:
    """images: [N, …]. Their dtype and range against dataset.vocabulary."""
    what = f"{where}the {dataset.split} split of {dataset.name} ({dataset.version})"
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
            f"data.vocabulary={dataset.vocabulary} allows values up to {dataset.vocabulary - 1} "
            f"but {what} holds {highest}; set --config.data.vocabulary to {highest + 1} or more"
        )
