"""Readers of mnist, fashion_mnist, and cifar10: public data sets that users have in one of a few formats."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath

from vdm_jax.data import idx, npz, prepared
from vdm_jax.data.padding import padded
from vdm_jax.data.paths import existing
from vdm_jax.data.sources import Source
from vdm_jax.errors import UserError

_IDX_PLACES = {
    "mnist": ("/usr/share/datasets/mnist", "~/datasets/mnist"),
    "fashion_mnist": ("/usr/share/datasets/fashion-mnist", "~/datasets/fashion-mnist"),
}
_IDX_REMEDY = {
    "mnist": "download MNIST's four idx files (train-images-idx3-ubyte.gz and so on)",
    "fashion_mnist": "install the Debian package dataset-fashion-mnist or download its four idx files "
    "(train-images-idx3-ubyte.gz and so on)",
}


def read_idx_set(part: str, path: str, shape: Sequence[int] | None, *, name: str) -> tuple[Source, str]:
    """Read mnist or fashion_mnist as uint8 [28, 28, 1] with labels.

    Args:
        part: 'train' or 'test'.
        path: A folder with the idx files or with TFDS data sets, an `.npz` file, or '' for the default folders.
        shape: data.shape; (32, 32, 1) pads the images, and (16, 16, 1) also averages 2 × 2 pixels.
        name: 'mnist' or 'fashion_mnist'.

    Raises:
        UserError: If the data set is missing or damaged; the sentence says what to download.
    """
    return padded(*_read_idx_set(part, path, name), shape)


def _read_idx_set(part: str, path: str, name: str) -> tuple[Source, str]:
    """Read the images at their original size."""
    if path.endswith(".npz"):
        return npz.read(part, path, None)
    places = [existing(path, f"the folder with the files of {name}")] if path else _usual(name)
    for folder in places:
        found = idx.read(part, folder)
        if found is not None:
            return found
    from_tfds = prepared.read(name, part, path)
    if from_tfds is None:
        raise UserError(
            f"{name} is not in {f'data.path={path!r}' if path else 'any default folder'}: "
            f"{_IDX_REMEDY[name]} into {path or _IDX_PLACES[name][-1]}, "
            f"or run {prepared.command(name, path)}"
        )
    return from_tfds


def _usual(name: str) -> list[epath.Path]:
    """Return the default folders of a data set that exist."""
    places = (epath.Path(place).expanduser() for place in _IDX_PLACES[name])
    return [place for place in places if place.exists()]


def read_cifar10(part: str, path: str, shape: Sequence[int] | None) -> tuple[Source, str]:
    """Read cifar10 as uint8 [32, 32, 3] with labels, from TFDS or from an `.npz` file.

    Raises:
        UserError: If the data set is missing or damaged; the sentence says what to run.
    """
    if path.endswith(".npz"):
        return npz.read(part, path, shape)
    if path:
        existing(path, "the folder that contains TFDS data sets, or an .npz file")
    found = prepared.read("cifar10", part, path)
    if found is None:
        raise UserError(
            f"cifar10 is not in {f'data.path={path!r}' if path else 'the TFDS folder'}: run "
            f"{prepared.command('cifar10', path)}, or set --config.data.path to an .npz file with "
            "x_train and x_test"
        )
    return found
