"""What every sample is to be: its label and, of an upsampler, the image that it enlarges."""

from __future__ import annotations

import zipfile
import zlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from vdm_jax import data
from vdm_jax.errors import UserError
from vdm_jax.fields import value
from vdm_jax.methods.conditioning import asked
from vdm_jax.networks import resample


class Wanted(NamedTuple):
    """label: [N], 0 without classes. low: data [N, h, w, C] as the base model gives them, means of levels where they
    are made from larger images; None for a model that is no upsampler."""

    label: np.ndarray
    low: np.ndarray | None = None


def wanted(config: ConfigDict, classes: int, count: int) -> Wanted:
    """What the first `count` samples are to be; classes: how many labels can be asked for.

    An upsampler enlarges the images of `sampling.low_resolution`, with their labels unless `sampling.label` is one;
    without such a file the first of the evaluation split, made small. Raises UserError for a file that does not fit.
    """
    label = asked(config, classes, np.arange(count))
    if not value(config, "model.low_resolution", 0):
        return Wanted(label)
    read = _from_file if value(config, "sampling.low_resolution", "") else _from_split
    low, theirs = read(config, count)
    if not classes or value(config, "sampling.label", -1) >= 0:
        return Wanted(label, low)
    return Wanted(_checked(config, classes, theirs), low)


def dataset(config: ConfigDict) -> data.Dataset:
    """The split that is evaluated; images that training crops are whole here."""
    found = data.load(
        config.data.name,
        config.evaluation.split,
        path=config.data.path,
        shape=tuple(config.data.shape),
        vocabulary=config.data.vocabulary or None,
    )
    return data.whole(found, tuple(config.data.shape)) if "crop" in config.data.augment else found


def _from_split(config: ConfigDict, count: int) -> tuple[np.ndarray, Any]:
    """(area means [count, h, w, C] of the first images, their labels or None)."""
    source = dataset(config).source
    records = [source[k % len(source)] for k in range(count)]
    images = np.stack([record["image"] for record in records]).astype(np.float32)
    labels = np.array([record["label"] for record in records]) if "label" in records[0] else None
    return np.asarray(resample.area(jnp.asarray(images), config.model.low_resolution)), labels


def _from_file(config: ConfigDict, count: int) -> tuple[np.ndarray, Any]:
    """(images [count, h, w, C], their labels or None) of a file of samples."""
    path, side = config.sampling.low_resolution, config.model.low_resolution
    where = f"config.sampling.low_resolution={path!r}"
    images, labels = _arrays(path, where)
    shape = (side, side, config.data.shape[-1])
    if images.shape[1:] != shape:
        raise UserError(
            f"{where} holds samples of shape {images.shape[1:]}, and this upsampler enlarges images of shape {shape}; "
            "give the samples of a model of that size"
        )
    levels = config.data.vocabulary
    if (images.dtype.kind in "iu") != bool(levels) or (levels and not 0 <= images.min() <= images.max() < levels):
        held = f"{images.dtype} from {images.min():g} to {images.max():g}"
        legal = f"levels 0 to {levels - 1}" if levels else "real numbers"
        raise UserError(f"{where} holds {held}, and this upsampler's images are {legal} (config.data.vocabulary)")
    if len(images) < count:
        raise UserError(
            f"{where} holds {len(images)} samples for config.sampling.num_images={count}; set that to {len(images)} "
            "or less, or draw more of the model that made them"
        )
    if labels is not None and labels.shape != images.shape[:1]:
        raise UserError(f"{where} holds {len(images)} samples and labels of shape {labels.shape}; write it again")
    return images[:count], None if labels is None else labels[:count]


def _arrays(path: str, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """'samples' [N, …], N > 0, and 'labels', if any, of a file."""
    file = epath.Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{where} is no file; give the samples/STEP.npz that --mode=sample of the smaller model wrote")
    try:
        with file.open("rb") as stream:
            arrays = np.load(stream, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile) or "samples" not in arrays:
                raise ValueError("it has no array named samples")
            images, labels = arrays["samples"], arrays.get("labels")
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # of zip files
        raise UserError(f"{where} is no file of samples as --mode=sample writes them ({error})") from error
    if not images.size:
        raise UserError(f"{where} holds no samples; write it again")
    if images.dtype.kind not in "iuf":
        raise UserError(f"{where} holds samples of the type {images.dtype}, which are no images; write it again")
    return images, labels


def _checked(config: ConfigDict, classes: int, labels: np.ndarray | None) -> np.ndarray:
    """Labels that come with images, as int32."""
    where = f"config.sampling.low_resolution={config.sampling.low_resolution!r}"
    if labels is None:
        raise UserError(f"{where} holds no labels, which this upsampler is told; say one by config.sampling.label")
    if labels.dtype.kind not in "iu":
        raise UserError(f"{where} holds labels of the type {labels.dtype}; they must be integers, write it again")
    highest = (
        classes - 1 + (value(config, "model.null_class", False) and not config.sampling.classifier)
    )  # a classifier knows no ∅
    if labels.min() < 0 or labels.max() > highest:
        raise UserError(
            f"{where} holds labels {labels.min()} to {labels.max()}, and this upsampler is told 0 to {highest}; say "
            "one by config.sampling.label, or give samples of a model of the same classes"
        )
    return labels.astype(np.int32)
