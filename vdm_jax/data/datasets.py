"""Data sets by name: `load('digits', 'train')`.

The split 'train' has all training images. 'fit' and 'tune' are its two parts: 'tune' is the last tenth, at most 5,000
images. Results are reported on 'test'. ImageNet's validation images are 'test', as in the papers.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.data import arrays, captions, crop, emoji, folder, identity, imagenet, named, npz, shapes, stacked
from vdm_jax.data import resize as resizing
from vdm_jax.data.sources import Mapped, Source, first_decodable, take, trait
from vdm_jax.errors import UserError

SPLITS = ("train", "fit", "tune", "test")
BYTES = 256
MAX_TUNE = 5000
_MEANT = dict.fromkeys(("val", "valid", "validation", "eval", "dev", "testing", "holdout"), "test") | {
    "training": "train"
}

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
    "shapes": shapes.read,
    "shapes_held_out": partial(shapes.read, held_out=True),
    "emoji": emoji.read,
    "npz": npz.read,
    "folder": folder.read,
    "captions": captions.read,
}
_BY_PATH = ("npz", "folder", "captions")  # the config describes what these contain


class Dataset(NamedTuple):
    """One split of a data set, with the version that identifies its bytes."""

    source: Any  # random access to {"image": uint8 [H, W, C] or float32 [D]}, "label", "caption" if it has any
    name: str
    version: str
    split: str
    shape: tuple[int, ...]
    vocabulary: int | None  # pixel values are 0 … vocabulary - 1; None for continuous points

    @property
    def num_examples(self) -> int:
        """The number of records in this split."""
        return len(self.source)

    @property
    def identity(self) -> dict[str, Any]:
        """The JSON-compatible description that a resumed run compares with its own (`identity.identity`)."""
        return identity.identity(self.source, self.name, self.version)

    @property
    def class_names(self) -> Mapping[int, str]:
        """The name of each label, such as its folder's; empty if labels have no names."""
        return trait(self.source, "class_names", {})

    @property
    def what(self) -> str:
        """The phrase 'name (version)' for messages."""
        return f"{self.name} ({self.version})"


def from_section(section: Any, split: str) -> Dataset:
    """Open a split of the data set that a config's `data` section describes (see `load`)."""
    return load(
        section.name,
        split,
        path=section.path,
        shape=tuple(section.shape),
        vocabulary=section.vocabulary or None,
        resize=section.get("resize", ""),
    )


def names() -> tuple[str, ...]:
    """Return the legal values of data.name."""
    return tuple(_READERS)


def load(
    name: str,
    split: str,
    *,
    path: str = "",
    shape: Sequence[int] | None = None,
    vocabulary: int | None = None,
    resize: str = "",
) -> Dataset:
    """Open one split of a data set.

    Args:
        name: data.name, one of `names()`.
        split: One of `SPLITS`.
        path: data.path, for data sets that don't ship with the package.
        shape: The shape of a record, for 'npz' and 'folder'; the other data sets have a fixed shape.
        vocabulary: The number of values of a pixel, for 'npz' and 'folder'; 256 by default.
        resize: 'crop', 'pad', 'area', or 'bicubic' for images of a 'folder' of other shapes (`resize.Resize`).

    Raises:
        UserError: If the data set is missing or incomplete; the sentence says what to run or download.
    """
    _known("data.name", name, names())
    _known("split", split, SPLITS)
    reader = _READERS[name]
    if resizing.make(resize, name, shape):
        reader = partial(captions.read if name == "captions" else folder.read, resize=resize)
    source, version = reader("test" if split == "test" else "train", path, shape)
    if len(source) == 0:
        raise UserError(f"the {split} split of {name} ({version}) is empty; check data.path={path!r}")
    if split in ("fit", "tune"):
        source = _carve(source, split, name)
    image = first_decodable(lambda index: source[index]["image"], len(source))
    return Dataset(source, name, version, split, image.shape, _vocabulary(name, image, vocabulary))


def _known(field: str, value: str, legal: Sequence[str]) -> None:
    """Raise UserError unless `value` is legal for `field`, and suggest the nearest legal value."""
    if value in legal:
        return
    plain = value.lower().replace("-", "_")
    near = _MEANT.get(plain) if legal is SPLITS else None
    near = near or difflib.get_close_matches(plain, legal, n=1, cutoff=0.0)[0]
    raise UserError(f"{field}={value!r} is not one of {', '.join(legal)}; did you mean {near!r}?")


def _carve(source: Source, split: str, name: str) -> Source:
    """Return the training records without ('fit') or with only ('tune') the last tenth, at most MAX_TUNE records."""
    held = min(len(source) // 10, MAX_TUNE)
    if held == 0:
        raise UserError(f"{name} has {len(source)} training records, too few to hold out a tenth")
    cut = len(source) - held
    return take(source, np.arange(cut) if split == "fit" else np.arange(cut, len(source)))


def _vocabulary(name: str, image: np.ndarray, configured: int | None) -> int | None:
    """Return the vocabulary of a data set; None for continuous points."""
    if image.dtype != np.uint8:
        return None
    if name == "digits":
        return arrays.DIGITS_VOCABULARY
    return configured or BYTES if name in _BY_PATH else BYTES


def whole(dataset: Dataset, shape: Sequence[int]) -> Dataset:
    """Return the data set with images of `shape`; larger ones, which training crops, are resized to it completely."""
    if not croppable(dataset, shape) or dataset.vocabulary is None:
        return dataset
    source = Mapped(dataset.source, partial(crop.whole, size=shape[0], highest=dataset.vocabulary - 1))
    return dataset._replace(source=source, shape=tuple(shape))


def croppable(dataset: Dataset, shape: Sequence[int]) -> bool:
    """Return whether the images are squares and larger than those of `shape`."""
    return len(dataset.shape) == 3 and dataset.shape[0] == dataset.shape[1] > shape[0] == shape[1]
