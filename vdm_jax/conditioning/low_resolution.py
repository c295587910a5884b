"""The low-resolution image that an upsampler is conditioned on.

In training and in likelihoods it is the area-averaged image itself, in sampling a sample of another model.
"""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import arguments, data
from vdm_jax.conditioning.base import Condition, Encode
from vdm_jax.conditioning.label import NAME as LABEL
from vdm_jax.errors import UserError
from vdm_jax.keys import CONDITIONS
from vdm_jax.networks import resample
from vdm_jax.networks.encoders import ConcatImage, Encoder

NAME = "low_resolution"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowResolution(Condition):
    """Low-resolution images [B, side, side, channels].

    Attributes:
        name: Its key in `cond`.
        side: The height and width in pixels.
        channels: The number of channels.
        vocabulary: The number of values of a pixel; 0 for continuous data.
    """

    name: str = NAME
    purpose: int = CONDITIONS + 2
    side: int
    channels: int
    vocabulary: int

    def spec(self, size: int) -> jax.ShapeDtypeStruct | None:
        return None

    def value_spec(self, size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, self.side, self.side, self.channels), jnp.float32)

    def of_batch(self, batch: Mapping[str, Any], encode: Encode) -> Array:
        """Return the low-resolution image of the batch, or else the area-averaged image itself."""
        cond = batch.get("cond", {})
        return jnp.asarray(cond[self.name]) if self.name in cond else resample.area(encode(batch["x"]), self.side)

    def request(self, config: ConfigDict, count: int, known: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return the images of the file `sampling.low_resolution` with their labels.

        If the field is not set, they are the first images of the evaluation split, area-averaged.

        Raises:
            UserError: The file is not valid for the model.
        """
        if self.name in known:
            return {self.name: known[self.name], LABEL: known.get(LABEL)}
        read = self._from_file if config.sampling.get("low_resolution") else self._from_split
        images, labels = read(config, count)
        return {self.name: images, LABEL: labels}

    def _from_split(self, config: ConfigDict, count: int) -> tuple[np.ndarray, Any]:
        """Return the first images of the split, area-averaged to [count, h, w, C], and their labels or None."""
        source = data.from_section(config.data, config.evaluation.split).source
        records = [source[k % len(source)] for k in range(count)]
        images = np.stack([record["image"] for record in records]).astype(np.float32)
        labels = np.array([record["label"] for record in records]) if "label" in records[0] else None
        return np.asarray(resample.area(jnp.asarray(images), self.side)), labels

    def _from_file(self, config: ConfigDict, count: int) -> tuple[np.ndarray, Any]:
        """Read images [count, h, w, C], and their labels or None, from a file of samples."""
        path = config.sampling.low_resolution
        where = f"config.sampling.low_resolution={path!r}"
        images, labels = _arrays(path, where)
        self._check_shape(images.shape[1:], where)
        values = self.vocabulary
        if (images.dtype.kind in "iu") != bool(values) or (values and not 0 <= images.min() <= images.max() < values):
            actual = f"{images.dtype} from {images.min():g} to {images.max():g}"
            legal = f"integers 0 to {values - 1}" if values else "real numbers"
            raise UserError(
                f"{where} has samples of {actual}, but this upsampler takes {legal} (config.data.vocabulary); use the "
                "samples of a model of such data"
            )
        if len(images) < count:
            raise UserError(
                f"{where} has {len(images)} samples, fewer than config.sampling.num_images={count}; set that to "
                f"{len(images)} or less, or draw more samples of the smaller model"
            )
        if labels is not None and labels.shape != images.shape[:1]:
            raise UserError(
                f"{where} has {len(images)} samples but labels of shape {labels.shape}; write the file again"
            )
        return images[:count], None if labels is None else labels[:count]

    def _check_shape(self, shape: tuple[int, ...], where: str) -> None:
        fitting = (self.side, self.side, self.channels)
        if shape != fitting:
            raise UserError(
                f"{where} has samples of shape {shape}, but this upsampler takes images of shape "
                f"{fitting}; use the samples of a model of that size"
            )

    @property
    def takes_samples(self) -> bool:
        return True

    def check_samples(self, shape: tuple[int, ...], vocabulary: int, where: str) -> None:
        self._check_shape(shape, where)
        if vocabulary != self.vocabulary:
            raise UserError(
                f"{where} has samples with config.data.vocabulary={vocabulary}, but this upsampler takes images "
                f"with config.data.vocabulary={self.vocabulary}; use a model of the same data"
            )

    def prepare(self, value: Array, encode: Encode) -> Array:
        return encode(jnp.asarray(value))

    def check_request(self, config: ConfigDict) -> None:
        if not config.sampling.get("low_resolution"):
            raise UserError(
                "config.sampling.low_resolution='' leaves this upsampler without input images; set it to a "
                "samples/STEP.npz from --mode=sample of the smaller model"
            )

    def from_user(self, given: Any, count: int, encode: Encode) -> Array:
        shape = (count, self.side, self.side, self.channels)
        if given is None or np.shape(given) != shape:
            what = "nothing" if given is None else f"images of shape {np.shape(given)}"
            raise UserError(f"{NAME} of this upsampler must be images of shape {shape}, not {what}")
        return encode(jnp.asarray(arguments.pixels(NAME, given, self.vocabulary)))

    def encoder(self) -> Encoder:
        return ConcatImage(self.name, self.side, self.channels)

    @property
    def description(self) -> str:
        return f"{self.side} × {self.side} pixels"

    @property
    def needs_evaluation_data(self) -> bool:
        return True

    def picture(self, value: np.ndarray) -> np.ndarray | None:
        return value if self.vocabulary else None


def _arrays(path: str, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Read 'samples' [N, …], N > 0, and 'labels', or None if there are none, from a file."""
    file = epath.Path(path).expanduser()
    if not file.is_file():
        raise UserError(
            f"{where} does not exist or is not a file; set it to a samples/STEP.npz from --mode=sample of the smaller "
            "model"
        )
    try:
        with file.open("rb") as stream:
            arrays = np.load(stream, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile) or "samples" not in arrays:
                raise ValueError("it has no array named samples")
            images, labels = arrays["samples"], arrays.get("labels")
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # of zip files
        raise UserError(f"{where} is not a file of samples from --mode=sample ({error})") from error
    if not images.size:
        raise UserError(f"{where} has no samples; write the file again")
    if images.dtype.kind not in "iuf":
        raise UserError(f"{where} has samples of dtype {images.dtype}, which is not numeric; write the file again")
    # uint8 would overflow in arithmetic
    return images.astype(np.int32) if images.dtype == np.uint8 else images, labels


def from_config(config: ConfigDict) -> LowResolution | None:
    """Return the low-resolution condition if `model.low_resolution` is set, else None."""
    side = config.model.get("low_resolution", 0)
    if not side:
        return None
    return LowResolution(side=side, channels=config.data.shape[-1], vocabulary=config.data.vocabulary)
