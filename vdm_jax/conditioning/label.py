"""The class label of an example, with an optional null class for classifier-free guidance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.conditioning.base import Condition, Encode
from vdm_jax.errors import UserError
from vdm_jax.keys import CONDITIONS
from vdm_jax.networks.encoders import ClassEmbedding, Encoder

COLUMNS = 20  # the largest number of classes that define the columns of a sample grid
NAME = "label"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label(Condition):
    """Labels 0 … num_classes − 1, and num_classes for the null class ∅, whose embedding is learned.

    Attributes:
        name: Its key in `cond`.
        num_classes: The number of classes.
        null_class: Whether there is a null class.
        null_samples: Whether unconditional samples can be requested by the label ∅.
    """

    name: str = NAME
    purpose: int = CONDITIONS
    num_classes: int
    null_class: bool = False
    null_samples: bool = True

    @property
    def highest(self) -> int:
        """The largest label that samples can have."""
        return self.num_classes - 1 + (self.null_class and self.null_samples)

    def spec(self, size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size,), jnp.int32)

    def of_records(self, records: Mapping[str, np.ndarray]) -> np.ndarray:
        return records["label"]

    @property
    def guidable(self) -> bool:
        return self.null_class

    def null(self, value: Array) -> Array:
        return jnp.full_like(value, self.num_classes)

    def drop(self, value: Array, keys: Array) -> Array:
        return super().drop(value, keys).astype(value.dtype)

    def request(self, config: ConfigDict, count: int, known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return `sampling.label`, or labels that come with other conditions, or else cycle through the classes."""
        label = config.sampling.get("label", -1)
        if label >= 0:
            return {self.name: np.full(count, label, np.int32)}
        if self.name in known:
            return {self.name: self._checked(known[self.name], config)}
        return {self.name: (np.arange(count) % self.num_classes).astype(np.int32)}

    def _checked(self, labels: Any, config: ConfigDict) -> np.ndarray:
        """Check labels that come with the samples of another model."""
        path = config.sampling.get("low_resolution", "")
        where = f"config.sampling.low_resolution={path!r}" if path else "the stage before this one"
        if labels is None:
            raise UserError(f"{where} has no labels, which this upsampler needs; set config.sampling.label")
        if labels.dtype.kind not in "iu":
            raise UserError(f"{where} has labels of dtype {labels.dtype}; write the file again with integer labels")
        if labels.min() < 0 or labels.max() > self.highest:
            other = "set config.sampling.label, or " if path else ""
            raise UserError(
                f"{where} has labels {labels.min()} to {labels.max()}, but those of this upsampler are 0 to "
                f"{self.highest}; {other}use samples of a model with the same classes"
            )
        return np.asarray(labels, np.int32)

    def from_user(self, given: Any, count: int, encode: Encode) -> Array:
        """Check one label for all images, or [count] labels; return int32 [count].

        Raises:
            UserError: The labels are missing or invalid.
        """
        if given is None:
            raise UserError(
                f"this model is conditioned on labels, 0 to {self.num_classes - 1}; pass one label, or one for each of "
                f"the {count} images"
            )
        given = np.asarray(given)
        if given.dtype.kind not in "iu" or given.shape not in ((), (count,)):
            raise UserError(f"labels must be one integer or {count} of them, not {given.dtype} of shape {given.shape}")
        given = np.broadcast_to(given, (count,))
        if count and (given.min() < 0 or given.max() > self.highest):
            raise UserError(f"labels must be 0 to {self.highest}, not {given.min()} to {given.max()}")
        return jnp.asarray(given, jnp.int32)

    def encoder(self) -> Encoder:
        return ClassEmbedding(self.name, self.num_classes + self.null_class)

    def data_requirements(self) -> dict[str, Any]:
        return {"classes": self.num_classes}

    @property
    def description(self) -> str:
        return "the label"

    def stem(self, config: ConfigDict) -> str:
        label = config.sampling.get("label", -1)
        return f"_label{label}" if label >= 0 else ""

    def columns(self, config: ConfigDict) -> int | None:
        in_turn = config.sampling.get("label", -1) < 0
        return self.num_classes if in_turn and self.num_classes <= COLUMNS else None

    def arrays(self, value: np.ndarray) -> dict[str, np.ndarray]:
        return {"labels": value}


def from_config(config: ConfigDict) -> Label | None:
    """Return the label condition if `model.num_classes` is set, else None."""
    classes = config.model.get("num_classes", 0)
    if not classes:
        return None
    return Label(
        num_classes=classes,
        null_class=bool(config.model.get("null_class", False)),
        drop_rate=config.training.get("label_dropout", 0.0),
    )
