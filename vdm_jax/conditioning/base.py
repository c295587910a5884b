"""The interface of a condition, and functions of several conditions.

A batch is {"x": data [B, …], "cond": {name: value [B, …]}, …}. Each condition defines where its value comes from, how
it is dropped in training, its null value ∅ for classifier-free guidance, its values for samples, and its encoder in
the network. The trainer, the evaluator, the planner, the notebook API and the command line iterate over a method's
conditions. A new condition is a file here and a line in `conditioning.FROM_CONFIG`.
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

from vdm_jax import arguments
from vdm_jax.errors import UserError
from vdm_jax.keys import fold
from vdm_jax.networks.encoders import Encoder

Cond = Mapping[str, Array]
Encode = Callable[[Array], Array]  # data → f, the clean signal in z_t = α_t f + σ_t ε


class Guided(NamedTuple):
    """Condition values with weights of classifier-free guidance.

    Attributes:
        cond: Name → value [b, …].
        weights: Name → guidance weight w [b] of each guided condition, see `guidance.classifier_free`.
    """

    cond: Cond
    weights: Mapping[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """A condition. By default it is a column of the batch and is never dropped.

    Attributes:
        name: Its key in `cond`.
        drop_rate: The probability that a training example gets ∅ instead.
        purpose: The number that keys are folded with to decide which examples do; each condition has its own.
    """

    name: str
    drop_rate: float = 0.0
    purpose: int

    # ---- batches

    def spec(self, size: int) -> jax.ShapeDtypeStruct | None:
        """Return the shape and dtype of its column in a batch; None if it is computed from the data."""
        return jax.ShapeDtypeStruct((size,), jnp.float32)

    def value_spec(self, size: int) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of the value that the network is conditioned on."""
        spec = self.spec(size)
        assert spec is not None, "a condition that is computed from the data must override value_spec"
        return spec

    def of_records(self, records: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return its column of a batch from records of the data set, on the host."""
        raise NotImplementedError

    def of_batch(self, batch: Mapping[str, Any], encode: Encode) -> Array:
        """Return the value that the network is conditioned on, [B, …]; raise ValueError if the batch has none."""
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
        """Return ∅ in the shape of the value; raise UserError if the condition has no ∅."""
        raise UserError(f"guidance by {self.name!r} needs a model that was trained both with and without it")

    def drop(self, value: Array, keys: Array) -> Array:
        """Replace values by ∅ with probability drop_rate (Ho & Salimans 2022, algorithm 1); keys: [B]."""
        if not self.drop_rate:
            return value
        u = jax.vmap(jax.random.uniform)(fold(keys, self.purpose))
        return jnp.where(jnp.reshape(u < self.drop_rate, u.shape + (1,) * (value.ndim - 1)), self.null(value), value)

    # ---- samples

    @property
    def chosen(self) -> bool:
        """Whether users choose its value for samples."""
        return True

    def request(self, config: ConfigDict, count: int, known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return values for the first `count` samples as the `sampling` section selects them, by name, on the host.

        They may include values of other conditions, such as the labels of low-resolution images; known: the values from
        earlier conditions.
        """
        return {self.name: known[self.name] if self.name in known else np.zeros(count, np.float32)}

    def prepare(self, value: Array, encode: Encode) -> Array:
        """Convert a requested value to the value that the network is conditioned on."""
        return jnp.asarray(value)

    def check_request(self, config: ConfigDict) -> None:
        """Raise UserError if the `sampling` section does not have the fields that this condition needs."""

    @property
    def takes_samples(self) -> bool:
        """Whether its values can be samples of another model, see `vdm_jax.pipelines`."""
        return False

    def check_samples(self, shape: tuple[int, ...], vocabulary: int, where: str) -> None:
        """Raise UserError unless samples of that shape and vocabulary (0: real numbers) fit; where: their origin."""

    def from_user(self, given: Any, count: int, encode: Encode) -> Array:
        """Convert a value from the notebook API, None if none was passed, to the value for the network, [count, …].

        Raises:
            UserError: The value is missing or invalid.
        """
        if given is not None:
            raise UserError(f"this model's {self.name!r} cannot be chosen for images; leave it out")
        return jnp.zeros(count)

    # ---- networks, data and results

    def encoder(self) -> Encoder:
        """Return its encoder in a network."""
        raise NotImplementedError

    def data_requirements(self) -> dict[str, Any]:
        """Return its arguments of `data.check`."""
        return {}

    @property
    def description(self) -> str:
        """Its name in the description of a conditional likelihood; '' to leave it out."""
        return ""

    @property
    def needs_evaluation_data(self) -> bool:
        """Whether samples during training take their values from the evaluation split."""
        return False

    def stem(self, config: ConfigDict) -> str:
        """Return its part of the names of sample files, such as '_label3'."""
        return ""

    def columns(self, config: ConfigDict) -> int | None:
        """Return the number of columns of a sample grid if values cycle in the order of the samples, else None."""
        return None

    def arrays(self, value: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays of requested values to save with samples, by name."""
        return {}

    def picture(self, value: np.ndarray) -> np.ndarray | None:
        """Return requested values as images [N, h, w, C] to show next to the samples, or None."""
        return None


Conditions = tuple[Condition, ...]


def data_requirements(conditions: Sequence[Condition]) -> dict[str, Any]:
    """Return the arguments of `data.check` for all conditions."""
    requirements: dict[str, Any] = {}
    for condition in conditions:
        requirements |= condition.data_requirements()
    return requirements


def specs(conditions: Sequence[Condition], size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of the condition columns of a batch, by name."""
    columns = {c.name: c.spec(size) for c in conditions}
    return {name: spec for name, spec in columns.items() if spec is not None}


def specs_of_values(conditions: Sequence[Condition], size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of the values that the network is conditioned on, by name."""
    return {c.name: c.value_spec(size) for c in conditions}


def batch_of(conditions: Sequence[Condition], records: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Make a batch {'x', 'cond', …} from records {'image', 'label', …} of the data set, on the host.

    'replaced', 'mask' and 'index' are copied if the records have them.
    """
    cond = {c.name: c.of_records(records) for c in conditions if c.spec(1) is not None}
    kept = {name: records[name] for name in ("replaced", "mask", "index") if name in records}
    return {"x": records["image"], "cond": cond, **kept}


def of_batch(
    conditions: Sequence[Condition], batch: Mapping[str, Any], encode: Encode, drop_keys: Array | None = None
) -> dict[str, Array]:
    """Return the values that the network is conditioned on, by name; drop_keys [B], in training, drop conditions."""
    values = {c.name: c.of_batch(batch, encode) for c in conditions}
    if drop_keys is None:
        return values
    return {c.name: c.drop(values[c.name], drop_keys) for c in conditions}


def requests(
    conditions: Sequence[Condition], config: ConfigDict, count: int, known: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Return values of all conditions for the first `count` samples, by name, on the host.

    known: values that other models of a pipeline had, by name. Raises UserError if a file of values is not valid for
    the model.
    """
    found = dict(known or {})
    for condition in conditions:
        found |= condition.request(config, count, found)
    return found


def defaults(conditions: Sequence[Condition], config: ConfigDict, count: int) -> dict[str, np.ndarray]:
    """Return values for `count` samples of the conditions that users choose, for those that they leave out, by name."""
    return requests([c for c in conditions if c.chosen], config, count)


def prepared(conditions: Sequence[Condition], requested: Mapping[str, Any], encode: Encode) -> dict[str, Array]:
    """Convert requested values to the values that the network is conditioned on."""
    return {c.name: c.prepare(requested[c.name], encode) for c in conditions}


def from_user(
    conditions: Sequence[Condition], given: Mapping[str, Any], count: int, encode: Encode
) -> dict[str, Array]:
    """Convert values from the notebook API for `count` images to values for the network.

    Raises:
        UserError: A value is missing or invalid, or the model does not have the condition.
    """
    known = [c.name for c in conditions]
    for name, value in given.items():
        if name not in known and value is not None:
            raise UserError(
                f"{name!r} was passed, but this model is conditioned on {' and '.join(known) or 'nothing'}; "
                "leave it out"
            )
    return {c.name: c.from_user(given.get(c.name), count, encode) for c in conditions}


def guided(conditions: Sequence[Condition], cond: Cond, weight: Any, count: int) -> Cond | Guided:
    """Add weights of classifier-free guidance to condition values.

    Args:
        conditions: The conditions of the model.
        cond: Name → value [count, …].
        weight: w of the single guidable condition, or a mapping from names of conditions to w. Each w is a number or
            [count].
        count: The number of samples.

    Returns:
        `Guided` values, or cond itself where no condition is guided or a single weight is 0.

    Raises:
        UserError: A weight is not finite, or the model cannot be guided by the condition.
    """
    if not isinstance(weight, Mapping):
        names = [c.name for c in conditions if c.guidable]
        if not np.any(weight):
            return cond
        if len(names) != 1:
            what = f"several conditions; name one of {', '.join(names)}" if names else "no condition with a null value"
            raise UserError(f"guidance_weight={weight} applies to one condition, but this model has {what}")
        weight = {names[0]: weight}
    by_name = {c.name: c for c in conditions}
    for name, w in weight.items():
        if name not in by_name or not by_name[name].guidable:
            raise UserError(f"guidance by {name!r} needs a model that was trained both with and without it")
        weight = {**weight, name: jnp.asarray(arguments.for_each("guidance_weight", w, count))}
    return Guided(cond, weight) if weight else cond
