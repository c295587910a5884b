"""What an example is conditioned on: the contract of a condition, and what is done with several of them.

A batch is {"x": data [B, …], "cond": {name: value [B, …]}, …}. Each condition says once where its value comes from,
how it is dropped in training, what ∅ is for classifier-free guidance, which values samples are requested with, and how
a network takes it in (`encoder`). The trainer, the evaluator, the planner, the notebook API and the command line
iterate over a method's conditions; a new condition is a file here and a line in `conditioning.FROM_CONFIG`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.errors import UserError
from vdm_jax.keys import CONDITIONS, fold
from vdm_jax.networks.encoders import Encoder

Cond = Mapping[str, Array]
Encode = Callable[[Array], Array]  # data → the scale of clean data


class Guided(NamedTuple):
    """What samples are conditioned on under classifier-free guidance.

    cond: name → value [b, …]. weights: name → w [b] of each guided condition; see `guidance.classifier_free`.
    """

    cond: Cond
    weights: Mapping[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition; the defaults are those of one that is a column of the batch and is never dropped.

    name: its key in `cond`. drop_rate: share of training examples that get ∅ instead. purpose: of the keys that
    decide which.
    """

    name: str
    drop_rate: float = 0.0
    purpose: int = CONDITIONS

    # ---- batches

    def spec(self, size: int) -> jax.ShapeDtypeStruct | None:
        """Its column in a batch of that size; None if it is computed from the data."""
        return jax.ShapeDtypeStruct((size,), jnp.float32)

    def value_spec(self, size: int) -> jax.ShapeDtypeStruct:
        """The value that the network is conditioned on."""
        spec = self.spec(size)
        assert spec is not None, "a condition that is computed from the data says its own"
        return spec

    def of_records(self, records: Mapping[str, np.ndarray]) -> np.ndarray:
        """The column of a batch from the records of the data set, on the host."""
        raise NotImplementedError

    def of_batch(self, batch: Mapping[str, Any], encode: Encode) -> Array:
        """The value that the network is conditioned on, [B, …], from a batch."""
        cond = batch.get("cond", {})
        if self.name not in cond:
            raise ValueError(f"the batch has no condition {self.name!r}; it has {sorted(cond) or 'none'}")
        return jnp.asarray(cond[self.name])

    # ---- classifier-free guidance

    @property
    def guidable(self) -> bool:
        """Whether the network was also trained on ∅ of this condition."""
        return False

    def null(self, value: Array) -> Array:
        """∅ in the shape of the value."""
        raise UserError(f"guidance by {self.name!r} needs a model that was also trained without it")

    def drop(self, value: Array, keys: Array) -> Array:
        """The value, replaced by ∅ with probability drop_rate (Ho & Salimans 2022, algorithm 1); keys: [B]."""
        if not self.drop_rate:
            return value
        u = jax.vmap(jax.random.uniform)(fold(keys, self.purpose))
        return jnp.where(jnp.reshape(u < self.drop_rate, u.shape + (1,) * (value.ndim - 1)), self.null(value), value)

    # ---- samples

    @property
    def chosen(self) -> bool:
        """Whether a user chooses it for samples."""
        return True

    def request(self, config: ConfigDict, count: int, known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Values for the first `count` samples as `sampling` asks for them, and of other conditions that come with
        them; known: what conditions before this one brought."""
        return {self.name: known[self.name] if self.name in known else np.zeros(count, np.float32)}

    def prepare(self, value: Array, encode: Encode) -> Array:
        """A requested value → what the network is conditioned on."""
        return jnp.asarray(value)

    def check_request(self, config: ConfigDict) -> None:
        """Raise UserError if `sampling` lacks what samples of this condition need."""

    @property
    def takes_samples(self) -> bool:
        """Whether its values can be samples of another model, see `vdm_jax.pipelines`."""
        return False

    def check_samples(self, shape: tuple[int, ...], vocabulary: int, where: str) -> None:
        """Raise UserError unless samples of that shape and vocabulary (0: real numbers) fit; where: their origin."""

    def from_user(self, given: Any, count: int, encode: Encode) -> Array:
        """A value from a notebook, [count, …], checked. given is None where the user gave none."""
        if given is not None:
            raise UserError(f"this model's {self.name!r} is not chosen for single images; leave it out")
        return jnp.zeros(count)

    # ---- networks, data and results

    def encoder(self) -> Encoder:
        """How a network takes it in."""
        raise NotImplementedError

    def data_requirements(self) -> dict[str, Any]:
        """Arguments of `data.check`."""
        return {}

    @property
    def description(self) -> str:
        """What a likelihood is conditioned on, in words; '' if it does not matter."""
        return ""

    @property
    def needs_evaluation_data(self) -> bool:
        """Whether samples drawn in training take their values from the evaluation split."""
        return False

    def stem(self, config: ConfigDict) -> str:
        """What the names of sample files say of it, such as '_label3'."""
        return ""

    def columns(self, config: ConfigDict) -> int | None:
        """How many columns a grid of samples has, where values repeat in turn."""
        return None

    def arrays(self, value: np.ndarray) -> dict[str, np.ndarray]:
        """What a file of samples keeps of requested values, by the name of the array."""
        return {}

    def picture(self, value: np.ndarray) -> np.ndarray | None:
        """Requested values as images [N, h, w, C] to show beside the samples."""
        return None


Conditions = tuple[Condition, ...]


def data_requirements(conditions: Sequence[Condition]) -> dict[str, Any]:
    """Arguments of `data.check`."""
    found: dict[str, Any] = {}
    for condition in conditions:
        found |= condition.data_requirements()
    return found


def specs(conditions: Sequence[Condition], size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The columns of a batch of that size, by name."""
    found = {c.name: c.spec(size) for c in conditions}
    return {name: spec for name, spec in found.items() if spec is not None}


def specs_of_values(conditions: Sequence[Condition], size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What the network is conditioned on, for a batch of that size."""
    return {c.name: c.value_spec(size) for c in conditions}


def batch_of(conditions: Sequence[Condition], records: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Records of the data set {'image', 'label', …} → a batch {'x', 'cond', …}, on the host.

    'replaced', 'mask' and 'index' pass where there are any.
    """
    cond = {c.name: c.of_records(records) for c in conditions if c.spec(1) is not None}
    kept = {name: records[name] for name in ("replaced", "mask", "index") if name in records}
    return {"x": records["image"], "cond": cond, **kept}


def of_batch(
    conditions: Sequence[Condition], batch: Mapping[str, Any], encode: Encode, drop_keys: Array | None = None
) -> dict[str, Array]:
    """What the network is conditioned on; drop_keys: [B] in training, to drop conditions."""
    values = {c.name: c.of_batch(batch, encode) for c in conditions}
    if drop_keys is None:
        return values
    return {c.name: c.drop(values[c.name], drop_keys) for c in conditions}


def requests(
    conditions: Sequence[Condition], config: ConfigDict, count: int, known: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Values of all conditions for the first `count` samples, on the host.

    known: values that other models of a pipeline had, by name. Raises UserError for a file of values that does not fit.
    """
    found = dict(known or {})
    for condition in conditions:
        found |= condition.request(config, count, found)
    return found


def prepared(conditions: Sequence[Condition], requested: Mapping[str, Any], encode: Encode) -> dict[str, Array]:
    """Requested values → what the network is conditioned on."""
    return {c.name: c.prepare(requested[c.name], encode) for c in conditions}


def from_user(
    conditions: Sequence[Condition], given: Mapping[str, Any], count: int, encode: Encode
) -> dict[str, Array]:
    """Values from a notebook for `count` images, checked; UserError for a condition that the model lacks."""
    known = [c.name for c in conditions]
    for name, value in given.items():
        if name not in known and value is not None:
            raise UserError(
                f"{name!r} was given, but this model is conditioned on {' and '.join(known) or 'nothing'}; leave it out"
            )
    return {c.name: c.from_user(given.get(c.name), count, encode) for c in conditions}


def guided(conditions: Sequence[Condition], cond: Cond, weight: Any, count: int) -> Cond | Guided:
    """`cond` with the weights of classifier-free guidance, where any is not 0.

    weight: w of the one condition that can be guided, or a mapping from names; a number or [count].
    """
    if not isinstance(weight, Mapping):
        names = [c.name for c in conditions if c.guidable]
        if not np.any(weight):
            return cond
        if len(names) != 1:
            what = (
                f"several conditions; name one of {', '.join(names)}" if names else "none that it was trained without"
            )
            raise UserError(f"guidance_weight={weight} is for one condition, and this model has {what}")
        weight = {names[0]: weight}
    by_name = {c.name: c for c in conditions}
    for name, w in weight.items():
        if name not in by_name or not by_name[name].guidable:
            raise UserError(f"guidance by {name!r} needs a model that is conditioned on it and was trained without it")
        weight = {**weight, name: jnp.broadcast_to(jnp.asarray(finite("guidance_weight", w, count)), (count,))}
    return Guided(cond, weight) if weight else cond


def finite(name: str, given: Any, count: int | None) -> np.ndarray:
    """Finite numbers: one, or one for each of `count` samples, or of any shape if count is None."""
    array = np.asarray(given)
    if array.dtype.kind not in "iufb" or not np.all(np.isfinite(array)):
        raise UserError(f"{name} must be finite numbers")
    if count is not None and array.shape not in ((), (count,)):
        raise UserError(f"{name} is a finite number or one for each of the {count} samples")
    return array.astype(np.float32)
