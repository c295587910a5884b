"""What is done with several conditions: dropping, requests, values of a user, and guidance by some of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from vdm_jax import conditioning
from vdm_jax.conditioning import Condition, Guided
from vdm_jax.conditioning import text as text_conditions
from vdm_jax.conditioning.augmentation import Augmented
from vdm_jax.conditioning.label import Label
from vdm_jax.conditioning.low_resolution import LowResolution
from vdm_jax.errors import UserError
from vdm_jax.keys import CONDITIONS, example_keys

COUNT = 4_000
SAME: Any = lambda x: x


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Condition):
    """Tokens of three features each, [B, 2, 3]; ∅ is −1 everywhere."""

    name: str = "text"
    purpose: int = CONDITIONS + 10

    def spec(self, size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, 2, 3), jnp.float32)

    @property
    def guidable(self) -> bool:
        return True

    def null(self, value: Array) -> Array:
        return jnp.full_like(value, -1)


def test_dropping_a_tensor_is_of_its_rate_of_all_of_it_and_keyed_by_example() -> None:
    text = Text(drop_rate=0.3)
    value = jnp.arange(COUNT * 6.0).reshape(COUNT, 2, 3)
    keys = example_keys(jax.random.key(0), jnp.arange(COUNT))
    dropped = np.asarray(text.drop(value, keys))
    lost = dropped[:, 0, 0] == -1
    np.testing.assert_array_equal(dropped[lost], -1)
    np.testing.assert_array_equal(dropped[~lost], value[~lost])
    assert abs(lost.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / COUNT)
    np.testing.assert_array_equal(text.drop(value[500:600], keys[500:600]), dropped[500:600])
    np.testing.assert_array_equal(Text().drop(value, keys), value)


def test_conditions_of_purposes_of_their_own_are_dropped_independently() -> None:
    text, label = Text(drop_rate=0.5), Label(num_classes=3, null_class=True, drop_rate=0.5)
    keys = example_keys(jax.random.key(0), jnp.arange(COUNT))
    batch = {"x": jnp.zeros((COUNT, 2)), "cond": {"text": jnp.zeros((COUNT, 2, 3)), "label": jnp.zeros(COUNT, int)}}
    values = conditioning.of_batch((text, label), batch, SAME, keys)
    lost = np.asarray(values["text"][:, 0, 0] == -1), np.asarray(values["label"] == 3)
    assert abs(np.mean(lost[0] & lost[1]) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / COUNT)
    kept = conditioning.of_batch((text, label), batch, SAME)  # outside training
    assert not np.any(kept["text"]) and not np.any(kept["label"])


def test_every_condition_has_a_purpose_of_its_own() -> None:
    low = LowResolution(side=2, channels=1, vocabulary=0)
    captions = text_conditions.Text(context=8, vocabulary=300, kind="bpe", path="")
    purposes = [c.purpose for c in (Label(num_classes=3), Augmented(), low, captions, text_conditions.SameCaption())]
    assert len(set(purposes)) == len(conditioning.FROM_CONFIG) + 1 == 5 and min(purposes) == CONDITIONS
    assert Label(num_classes=3).purpose == CONDITIONS  # that of version 0.1.0, whose runs resume with the same labels


def test_what_is_dropped_of_a_condition_without_a_null_is_a_sentence() -> None:
    keys = example_keys(jax.random.key(0), jnp.arange(2))
    with pytest.raises(
        UserError, match="guidance by 'augmented' needs a model that was trained both with and without it"
    ):
        Augmented(drop_rate=0.5).drop(jnp.zeros(2), keys)


def test_a_batch_without_a_condition_of_the_model_names_it() -> None:
    conditions = Text(), Label(num_classes=3)
    with pytest.raises(ValueError, match=r"the batch has no condition 'text'; it has \['label'\]"):
        conditioning.of_batch(conditions, {"x": jnp.zeros(2), "cond": {"label": jnp.zeros(2)}}, SAME)
    with pytest.raises(ValueError, match="the batch has no condition 'text'; it has none"):
        conditioning.of_batch(conditions, {"x": jnp.zeros(2)}, SAME)


def test_a_batch_has_the_columns_that_are_described_and_what_is_beside_them() -> None:
    conditions = Augmented(), Label(num_classes=3)
    rows = np.arange(2)
    records = {"image": np.zeros((2, 4)), "label": rows.astype(np.int32), "augmented": np.ones(2, np.float32)}
    beside = {"mask": np.ones(2), "index": rows, "replaced": np.zeros(2)}
    batch = conditioning.batch_of(conditions, records | beside)
    assert batch["x"] is records["image"] and {k: batch[k] for k in beside} == beside and len(batch) == 5
    described = conditioning.specs(conditions, 2)
    assert {k: (v.shape, v.dtype) for k, v in batch["cond"].items()} == {
        k: (v.shape, v.dtype) for k, v in described.items()
    }
    np.testing.assert_array_equal(batch["cond"]["augmented"], 1)


def test_a_user_gives_no_condition_that_the_model_lacks() -> None:
    for conditions, words in (((), "nothing"), ((Label(num_classes=3), Augmented()), "label and augmented")):
        with pytest.raises(UserError, match=f"'text' was passed, but this model is conditioned on {words}; leave it"):
            conditioning.from_user(conditions, {"text": 1, "label": 0}, 2, SAME)
    values = conditioning.from_user((Label(num_classes=3), Augmented()), {"label": 2, "text": None}, 2, SAME)
    np.testing.assert_array_equal(values["label"], [2, 2])
    np.testing.assert_array_equal(values["augmented"], [0, 0])  # of samples, which a user cannot change
    with pytest.raises(UserError, match="'augmented' cannot be chosen for images"):
        conditioning.from_user((Augmented(),), {"augmented": 1}, 2, SAME)


LABEL, TEXT, BIT = Label(num_classes=3, null_class=True), Text(), Augmented()
VALUES = {"label": jnp.arange(2), "text": jnp.zeros((2, 2, 3)), "augmented": jnp.zeros(2)}


def test_a_weight_is_that_of_the_one_condition_that_can_be_guided() -> None:
    found = conditioning.guided((LABEL, BIT), VALUES, 2.0, 2)
    assert isinstance(found, Guided) and found.cond is VALUES and list(found.weights) == ["label"]
    np.testing.assert_array_equal(found.weights["label"], [2, 2])
    each = conditioning.guided((LABEL, TEXT), VALUES, {"text": np.array([1.0, 3.0]), "label": 0.5}, 2)
    assert isinstance(each, Guided)
    np.testing.assert_array_equal(each.weights["text"], [1, 3])
    np.testing.assert_array_equal(each.weights["label"], [0.5, 0.5])
    assert conditioning.guided((BIT,), VALUES, 0.0, 2) is VALUES
    assert conditioning.guided((BIT,), VALUES, {}, 2) is VALUES


@pytest.mark.parametrize(
    ("conditions", "weight", "sentence"),
    [
        (
            (Label(num_classes=3),),
            1.0,
            "guidance_weight=1.0 applies to one condition, .* no condition with a null value",
        ),
        ((), 1.0, "this model has no condition with a null value"),
        ((LABEL, TEXT), 1.0, "several conditions; name one of label, text"),
        (
            (Label(num_classes=3),),
            {"label": 1.0},
            "guidance by 'label' needs a model that was trained both with and without it",
        ),
        ((LABEL,), {"text": 1.0}, "guidance by 'text' needs a model that was trained both with and without it"),
        ((LABEL,), {"label": np.ones(3)}, "guidance_weight must be a finite number or one for each of the 2 samples"),
        ((LABEL,), np.nan, "guidance_weight must be finite numbers"),
    ],
)
def test_guidance_that_a_model_cannot_have_is_refused(conditions: Any, weight: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as refusal:
        conditioning.guided(conditions, VALUES, weight, 2)
    assert "\n" not in str(refusal.value)
