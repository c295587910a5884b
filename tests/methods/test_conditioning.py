"""Labels: what dropping them does, how a network begins, what the likelihood of a class is, and what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.runs import FAST, images, points
from vdm_jax import api, config, data, methods
from vdm_jax.errors import UserError
from vdm_jax.evaluation import report
from vdm_jax.methods import conditioning, networks
from vdm_jax.methods.base import example_keys
from vdm_jax.training import devices
from vdm_jax.training.program import abstract_batch, functions


def labelled(made: Any, classes: int = 10, share: float = 0.0) -> Any:
    made.data.augment = ()
    made.model.num_classes, made.model.null_class, made.training.label_dropout = classes, share > 0, share
    config.check(made)
    return made


def test_dropped_labels_are_the_null_class_and_keyed_by_example() -> None:
    given = labelled(points(), 7, share=0.2)
    label = jnp.arange(20_000) % 7
    keys = example_keys(jax.random.key(0), jnp.arange(20_000))
    told = np.asarray(conditioning.dropped(given, label, keys))
    kept = told != 7
    np.testing.assert_array_equal(told[kept], label[kept])
    assert abs(np.mean(~kept) - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 20_000)
    np.testing.assert_array_equal(conditioning.dropped(given, label[500:600], keys[500:600]), told[500:600])
    given.training.label_dropout = 0.0
    np.testing.assert_array_equal(conditioning.dropped(given, label, keys), label)


@pytest.mark.parametrize("made", [points, images])
def test_a_network_with_labels_begins_as_the_one_without(made: Any) -> None:
    """Its parameters are those of the other and the classes', which are 0: published weights can be tuned to labels."""
    plain, told = made(), labelled(made(), 3)
    plain.data.augment = ()
    shape = tuple(plain.data.shape)
    init = lambda c: jax.jit(lambda: networks.init(networks.network(c), jax.random.key(0), shape), compiler_options=FAST)
    without, with_labels = init(plain)(), init(told)()
    classes = with_labels.pop("classes")["embedding"]
    assert classes.shape[0] == 3 and not np.any(classes)
    jax.tree.map(np.testing.assert_array_equal, with_labels, without)


def test_the_gradient_reaches_the_classes_of_the_batch_alone() -> None:
    given = labelled(points(), 5, share=0.5)
    given.data.name = "digits"  # for its labels; the images are not looked at
    program = functions(given, methods.build(given), devices.make_mesh(1, 1, jax.devices()[:1]))
    state = program.init()
    described = abstract_batch(given)
    batch = {k: np.zeros(v.shape, v.dtype) for k, v in described.items()}
    assert batch["conditioning"].dtype == np.int32
    batch["image"] = np.random.default_rng(0).normal(size=described["image"].shape).astype(np.float32)
    batch["conditioning"] += 2
    random = lambda a: np.random.default_rng(1).normal(size=a.shape).astype(np.float32)
    params = jax.tree.map(random, jax.device_get(state.params["network"]))
    loss = methods.build(given).phases[0].loss

    def total(network: Any) -> Any:
        from vdm_jax.methods.base import Context

        keys = example_keys(jax.random.key(3), jnp.arange(16))
        context = Context(keys, jax.random.key(4), jnp.arange(16), 16)
        return jnp.sum(loss({"network": network, "schedule": state.params["schedule"]}, (), batch, context)[0])

    found = jax.jit(jax.grad(total), compiler_options=FAST)(params)["classes"]["embedding"]
    used = np.flatnonzero(np.abs(found).max(1))
    np.testing.assert_array_equal(used, [2, 5])  # theirs and the null class


def test_batches_carry_the_label_as_what_the_network_is_told() -> None:
    digits = data.load("digits", "test")
    batch = next(data.eval_batches(digits, batch_size=50, labels=True))
    np.testing.assert_array_equal(batch["conditioning"], digits.source.labels[:50])
    trained = next(data.train_iterator(digits, seed=1, batch_size=50, labels=True))
    np.testing.assert_array_equal(trained["conditioning"], trained["label"])
    assert np.any(trained["label"])


def test_samples_are_of_one_label_or_of_each_in_turn() -> None:
    given = labelled(points(), 3)
    index = np.arange(4, 8)
    np.testing.assert_array_equal(report.conditioning_of(given, index), [1, 2, 0, 1])
    given.sampling.label = 2
    np.testing.assert_array_equal(report.conditioning_of(given, index), [2, 2, 2, 2])
    np.testing.assert_array_equal(report.conditioning_of(points(), index), np.zeros(4))


def test_labels_in_a_notebook() -> None:
    """The bound of a class differs from that of another where its embedding does, and a missing label is a sentence."""
    given = labelled(points(), 3)
    method = methods.build(given)
    params = jax.jit(method.init, compiler_options=FAST)(jax.random.key(0))
    random = lambda a: 0.3 * jax.random.normal(jax.random.key(a.size), a.shape)
    params["network"] = jax.tree.map(random, params["network"])
    model = api.Model(given, method, params, 0)
    some = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    each = [model.bits_per_dim(some, labels=k)["total"] for k in range(3)]
    assert np.all(each[0] != each[1]) and np.all(each[1] != each[2])
    mixed = model.bits_per_dim(some, labels=np.array([2, 0, 1]))["total"]
    np.testing.assert_allclose(mixed, [each[2][0], each[0][1], each[1][2]], rtol=1e-5)
    for labels, words in ((None, "is told labels, 0 to 2"), (3, "labels are 0 to 2, these go from 3 to 3")):
        with pytest.raises(UserError, match=words):
            model.bits_per_dim(some, labels=labels)
    with pytest.raises(UserError, match="knows none"):
        api.Model(points(), methods.build(points()), params, 0).bits_per_dim(some, labels=1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.null_class": True}, r"num_classes=0 has none"),
        ({"model.num_classes": 10, "training.label_dropout": 0.1}, r"go together"),
        ({"model.num_classes": 10, "model.null_class": True}, r"go together"),
        ({"model.num_classes": 10, "data.augment": ("flip",)}, r"in the place of the label"),
        ({"sampling.label": 0}, r"sampling\.label=0 is none of the labels"),
        ({"model.num_classes": 10, "sampling.label": 10}, r"they are 0 to 9$"),
        ({"model.num_classes": 10, "sampling.guidance": (1.0,)}, r"also trained without labels"),
        ({"sampling.guidance": ()}, r"has no w"),
    ],
)
def test_labels_that_cannot_be_are_refused(changes: dict[str, Any], sentence: str) -> None:
    made = config.base()
    for name, value in changes.items():
        section, field = name.split(".")
        made[section][field] = value
    with pytest.raises(UserError, match=sentence):
        config.check(made)


def test_data_without_these_labels_are_refused(tmp_path: Any) -> None:
    digits = data.load("digits", "test")
    data.check(digits, (8, 8, 1), 17, classes=10)
    with pytest.raises(UserError, match=r"allows labels 0 to 4 but .* has 9; set --config\.model\.num_classes=10$"):
        data.check(digits, (8, 8, 1), 17, classes=5)
    with pytest.raises(UserError, match=r"has no labels"):
        data.check(data.load("swirl", "test"), (2,), None, classes=5)
