"""Labels: what dropping them does, how a network begins, what the likelihood of a class is, and what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests.training.runs import FAST, images, points
from vdm_jax import api, conditioning, config, data, methods
from vdm_jax.conditioning.label import Label
from vdm_jax.core.method import Context
from vdm_jax.errors import UserError
from vdm_jax.evaluation import report
from vdm_jax.gaussian import networks
from vdm_jax.keys import example_keys
from vdm_jax.runtime import devices
from vdm_jax.training.program import abstract_batch, functions


def labeled(made: Any, classes: int = 10, share: float = 0.0) -> Any:
    made.data.augment = ()
    dropped = {"model.null_class": True, "training.label_dropout": share} if share else {}
    config.choose(made, {"model.num_classes": classes} | dropped)
    config.check(made)
    return made


def test_dropped_labels_are_the_null_class_and_keyed_by_example() -> None:
    label = Label(num_classes=7, null_class=True, drop_rate=0.2)
    value = jnp.arange(4_000) % 7
    keys = example_keys(jax.random.key(0), jnp.arange(4_000))
    dropped = label.drop(value, keys)
    assert dropped.dtype == value.dtype
    kept = np.asarray(dropped) != 7
    np.testing.assert_array_equal(dropped[kept], value[kept])
    assert abs(np.mean(~kept) - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 4_000)
    np.testing.assert_array_equal(label.drop(value[500:600], keys[500:600]), dropped[500:600])
    np.testing.assert_array_equal(Label(num_classes=7, null_class=True).drop(value, keys), value)


def test_the_config_says_how_often_labels_are_dropped() -> None:
    assert conditioning.build(labeled(points(), 7, share=0.2)) == (
        Label(num_classes=7, null_class=True, drop_rate=0.2),
    )
    assert conditioning.build(labeled(points(), 7)) == (Label(num_classes=7),)


@pytest.mark.parametrize("made", [points, pytest.param(images, marks=pytest.mark.slow)])
def test_a_network_with_labels_begins_as_the_one_without(made: Any) -> None:
    """Its parameters are those of the other and the classes', which are 0: published weights can be tuned to labels."""
    plain, with_classes = made(), labeled(made(), 3)
    plain.data.augment = ()
    shape = tuple(plain.data.shape)
    init = lambda c: jax.jit(lambda: networks.init(networks.build(c), jax.random.key(0), shape), compiler_options=FAST)
    without, with_labels = init(plain)(), init(with_classes)()
    classes = with_labels.pop("classes")["embedding"]
    assert classes.shape[0] == 3 and not np.any(classes)
    jax.tree.map(np.testing.assert_array_equal, with_labels, without)


@pytest.mark.slow
def test_the_gradient_reaches_the_classes_of_the_batch_alone() -> None:
    given = labeled(points(), 5, share=0.5)
    given.data.name = "digits"  # for its labels; the images are not looked at
    method = methods.build(given)
    program = functions(given, method, devices.make_mesh(1, 1, jax.devices()[:1]))
    state = program.init()
    described = abstract_batch(given, method)
    batch = jax.tree.map(lambda v: np.zeros(v.shape, v.dtype), described)
    assert batch["cond"]["label"].dtype == np.int32
    batch["x"] = np.random.default_rng(0).normal(size=described["x"].shape).astype(np.float32)
    batch["cond"]["label"] += 2
    random = lambda a: np.random.default_rng(1).normal(size=a.shape).astype(np.float32)
    params = jax.tree.map(random, jax.device_get(state.params["network"]))
    loss = method.phases[0].loss

    def total(network: Any) -> Any:
        keys = example_keys(jax.random.key(3), jnp.arange(16))
        context = Context(keys, jax.random.key(4), jnp.arange(16), 16)
        return jnp.sum(loss({"network": network, "schedule": state.params["schedule"]}, (), batch, context)[0])

    found = jax.jit(jax.grad(total), compiler_options=FAST)(params)["classes"]["embedding"]
    used = np.flatnonzero(np.abs(found).max(1))
    np.testing.assert_array_equal(used, [2, 5])  # theirs and the null class


def test_batches_carry_the_label_as_a_condition() -> None:
    digits, conditions = data.load("digits", "test"), (Label(num_classes=10),)
    records = next(data.eval_batches(digits, batch_size=50))
    batch = conditioning.batch_of(conditions, records)
    np.testing.assert_array_equal(batch["x"], digits.source.images[:50])
    np.testing.assert_array_equal(batch["cond"]["label"], digits.source.labels[:50])
    assert list(batch["cond"]) == ["label"]
    trained = next(data.train_iterator(digits, seed=1, batch_size=50))
    np.testing.assert_array_equal(conditioning.batch_of(conditions, trained)["cond"]["label"], trained["label"])
    assert np.any(trained["label"])


def test_samples_are_of_one_label_or_of_each_in_turn() -> None:
    given = labeled(points(), 3)
    requested = lambda made: conditioning.requests(conditioning.build(made), made, 8)
    np.testing.assert_array_equal(requested(given)["label"][4:], [1, 2, 0, 1])
    given.sampling.label = 2
    np.testing.assert_array_equal(requested(given)["label"][4:], [2, 2, 2, 2])
    none = requested(points())
    assert list(none) == ["augmented"]
    np.testing.assert_array_equal(none["augmented"], np.zeros(8))


@pytest.fixture(scope="module")
def model() -> api.Model:
    """Of three classes and none, with random parameters."""
    given = labeled(points(), 3, share=0.1)
    config.choose(given, {"sampling.sampler": "ddim", "sampling.num_steps": 3})
    method = methods.build(given)
    params = jax.jit(method.init, compiler_options=FAST)(jax.random.key(0))
    draw = np.random.default_rng(0)
    params["network"] = jax.tree.map(lambda a: 0.3 * draw.normal(size=a.shape).astype(a.dtype), params["network"])
    return api.Model(given, method, params, 0)


def test_labels_in_a_notebook(model: api.Model) -> None:
    """The bound of a class differs from that of another where its embedding does, and a missing label is a sentence."""
    some = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    each = [model.bits_per_dim(some, labels=k)["total"] for k in range(3)]
    assert np.all(each[0] != each[1]) and np.all(each[1] != each[2])
    mixed = model.bits_per_dim(some, labels=np.array([2, 0, 1]))["total"]
    np.testing.assert_allclose(mixed, [each[2][0], each[0][1], each[1][2]], rtol=1e-5)
    for labels, words in ((None, "is conditioned on labels, 0 to 2"), (4, "labels must be 0 to 3, not 4 to 4")):
        with pytest.raises(UserError, match=words):
            model.bits_per_dim(some, labels=labels)
    with pytest.raises(UserError, match="'label' was passed, but this model is conditioned on augmented; leave it out"):
        api.Model(points(), methods.build(points()), model.params, 0).bits_per_dim(some, labels=1)


@pytest.mark.slow
def test_guided_samples_of_a_model(model: api.Model) -> None:
    """w = −1 is the null class's samples whatever the label, w = 0 the label's; each image has its own w."""
    plain, none = (model.sample(4, label=label) for label in (1, 3))
    several = model.sample(4, label=1, guidance_weight=np.array([0, -1, 0, 2.0]))
    np.testing.assert_allclose(several[[0, 2]], plain[[0, 2]], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(several[1], none[1], rtol=1e-4, atol=1e-5)
    assert np.abs(several[3] - plain[3]).max() > 1e-2
    np.testing.assert_allclose(model.sample(4)[:3], model.sample(3, label=np.arange(3)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_command_line_s_samples_are_those(model: api.Model, tmp_path: Any) -> None:
    """Two weights, one after the other, and in the file what each sample is."""
    given = api.ConfigDict(model.config.to_dict())
    given.sampling.guidance, given.sampling.num_images = (0.0, 2.0), 4
    mesh = devices.make_mesh(1, 1, jax.devices()[:1])
    report.write_samples(given, methods.build(given), model.params, mesh, epath.Path(tmp_path), 7)
    written = np.load(tmp_path / "samples" / "7.npz")
    np.testing.assert_array_equal(written["labels"], [0, 1, 2, 0] * 2)
    np.testing.assert_array_equal(written["guidance"], [0] * 4 + [2] * 4)
    wanted = [model.sample(4, guidance_weight=w) for w in (0.0, 2.0)]
    np.testing.assert_allclose(written["samples"], np.concatenate(wanted), rtol=1e-3, atol=1e-4)


NULL = {"model.num_classes": 10, "model.null_class": True, "training.label_dropout": 0.1}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.null_class": True}, r"null_class: config\.model\.num_classes=0 has no such field"),
        (
            {"model.num_classes": 10, "training.label_dropout": 0.1},
            r"label_dropout: config\.model\.null_class=False has no such field; it belongs to config\.model\.null",
        ),
        ({"model.num_classes": 10, "model.null_class": True}, r"go together"),
        ({"model.num_classes": 10, "data.augment": ("flip",)}, r"replaces the label"),
        ({"sampling.label": 0}, r"sampling\.label: config\.model\.num_classes=0 has no such field"),
        ({"model.num_classes": 10, "sampling.label": 10}, r"they are 0 to 9$"),
        (
            {"model.num_classes": 10, "sampling.guidance": (1.0,)},
            r"guidance: config\.model\.null_class=False has no such field; it belongs to config\.model\.null_cl",
        ),
        (NULL | {"sampling.guidance": ()}, r"has no w"),
        (
            {"sampling.classifier_config": "configs/x.py"},
            r"it belongs to a config\.sampling\.classifier that is not '' of config\.method='ddpm'",
        ),
        (NULL | {"sampling.guidance_interval": (1.0, 1.0)}, r"two gammas, the lower one first"),
        ({"sampling.percentile": 99.0}, r"clip=False has no such field; it belongs to config\.sampling\.clip=True"),
        (
            {"sampling.variance_mix": 0.3, "sampling.sampler": "ddim"},
            r"sampler='ddim' has no such field; it belongs to config\.sampling\.sampler='ancestral'",
        ),
    ],
)
def test_labels_that_cannot_be_are_refused(changes: dict[str, Any], sentence: str) -> None:
    made = config.base()
    with pytest.raises(UserError, match=sentence):
        config.check(config.choose(made, changes))


def test_data_without_these_labels_are_refused(tmp_path: Any) -> None:
    digits = data.load("digits", "test")
    data.check(digits, (8, 8, 1), 17, classes=10)
    with pytest.raises(UserError, match=r"allows labels 0 to 4 but .* has 9; set --config\.model\.num_classes=10$"):
        data.check(digits, (8, 8, 1), 17, classes=5)
    with pytest.raises(UserError, match=r"has no labels"):
        data.check(data.load("swirl", "test"), (2,), None, classes=5)
