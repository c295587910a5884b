"""What an upsampler enlarges in sampling: files of another model's samples, or small images of a split."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests.methods.test_classifier import settings as judge
from tests.methods.test_upsampler import SIDE, Pixels, settings
from tests.training.runs import mesh_of
from vdm_jax import conditioning, data, methods, modes
from vdm_jax.conditioning.low_resolution import LowResolution
from vdm_jax.errors import UserError
from vdm_jax.evaluation import report
from vdm_jax.gaussian import networks
from vdm_jax.methods import classifier_guidance
from vdm_jax.networks.resample import area

LEVELS = {"data__vocabulary": 17, "model__num_classes": 3, "sampling__num_images": 4}


def requested(config: Any, count: int) -> dict[str, np.ndarray]:
    return conditioning.requests(methods.build(config).conditions, config, count)


def a_file(place: Any, **arrays: Any) -> str:
    path = place / "base.npz"
    np.savez(path, **({"samples": np.arange(20).reshape(5, 2, 2, 1) % 17, "labels": np.arange(5) % 3} | arrays))
    return str(path)


def test_samples_of_another_model_are_enlarged_with_their_labels(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "build", Pixels)
    config = settings(**LEVELS, sampling__low_resolution=a_file(tmp_path), sampling__clip=True)
    written = report.write_samples(config, methods.build(config), {"network": {}}, mesh_of(2), epath.Path(tmp_path), 7)
    assert [path.name for path in written] == ["7.png", "7_given.png", "7.npz", "7_strip.png"]
    found = np.load(tmp_path / "samples" / "7.npz")
    np.testing.assert_array_equal(found["labels"], [0, 1, 2, 0])
    given = np.arange(16).reshape(4, 2, 2, 1)
    # x̂ is clipped to levels that there are, so means near the ends move
    inside = np.abs(given - 8) <= 3
    np.testing.assert_allclose(
        np.asarray(area(found["samples"].astype(np.float32), SIDE))[inside], given[inside], atol=1.5
    )
    config.sampling.label = 2
    np.testing.assert_array_equal(requested(config, 4)["label"], [2] * 4)


def test_bytes_of_a_file_are_read_without_overflow(tmp_path: Any) -> None:
    values = (np.arange(20).reshape(5, 2, 2, 1) * 13).astype(np.uint8)
    config = settings(**{**LEVELS, "data__vocabulary": 256}, sampling__low_resolution=a_file(tmp_path, samples=values))
    method = methods.build(config)
    found = requested(config, 4)["low_resolution"]
    np.testing.assert_array_equal(found, values[:4])
    encoded = conditioning.prepared(method.conditions, requested(config, 4), method.encode)["low_resolution"]
    np.testing.assert_allclose(encoded, 2 * values[:4].astype(float) / 255 - 1, atol=1e-6)


def test_without_a_file_the_images_of_the_split_are_made_small() -> None:
    config = settings(data__shape=(8, 8, 1), data__vocabulary=17, model__low_resolution=4, model__attention_at=(4,))
    config.model.num_classes = 10
    found, digits = requested(config, 6), data.from_section(config.data, "test").source
    np.testing.assert_array_equal(found["label"], digits.labels[:6])
    np.testing.assert_allclose(
        found["low_resolution"], digits.images[:6].reshape(6, 4, 2, 4, 2, 1).mean((2, 4)), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("arrays", "changes", "sentence"),
    [
        ({"samples": np.zeros((5, 4, 4, 1), int)}, {}, r"shape \(4, 4, 1\), but this upsampler takes .*\(2, 2, 1\)"),
        ({}, {"sampling__num_images": 6}, r"has 5 samples, fewer than config\.sampling\.num_images=6; set that to 5"),
        ({"samples": np.full((5, 2, 2, 1), 17)}, {}, r"int64 from 17 to 17, .* integers 0 to 16"),
        ({"samples": np.zeros((5, 2, 2, 1))}, {}, r"float64 from 0 to 0, .* integers 0 to 16"),
        ({"labels": np.full(5, 3)}, {}, r"labels 3 to 3, but those of this upsampler are 0 to 2"),
        ({"labels": np.zeros(4, int)}, {}, r"5 samples but labels of shape \(4,\)"),
        ({"samples": np.zeros((0, 2, 2, 1), int)}, {}, r"has no samples"),
        ({"samples": np.full((5, 2, 2, 1), "a")}, {}, r"samples of dtype <U1"),
        ({"labels": np.full(5, "a")}, {}, r"labels of dtype <U1"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(arrays: Any, changes: Any, sentence: str, tmp_path: Any) -> None:
    config = settings(**(LEVELS | changes), sampling__low_resolution=a_file(tmp_path, **arrays))
    with pytest.raises(UserError, match=sentence) as refusal:
        requested(config, config.sampling.num_images)
    assert "\n" not in str(refusal.value)


def test_a_label_of_a_file_is_the_null_class_only_where_samples_of_it_can_be_requested(tmp_path: Any) -> None:
    """A classifier that guides knows no null class, though the model does."""
    null = {"model__null_class": True, "training__label_dropout": 0.1}
    config = settings(**LEVELS, **null, sampling__low_resolution=a_file(tmp_path, labels=np.full(5, 3)))
    np.testing.assert_array_equal(requested(config, 4)["label"], [3] * 4)
    guided = classifier_guidance.build(config, judge()).conditions
    with pytest.raises(UserError, match="of this upsampler are 0 to 2"):
        conditioning.requests(guided, config, 4)


def test_what_is_no_file_of_samples_is_refused(tmp_path: Any) -> None:
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "unlabeled.npz", samples=np.zeros((5, 2, 2, 1), int))
    for name, sentence in (
        ("missing.npz", "does not exist or is not a file; set"),
        ("text.npz", "is not a file of samples"),
        ("other.npz", "no array named samples"),
        ("unlabeled.npz", "has no labels, which"),
    ):
        with pytest.raises(UserError, match=sentence):
            requested(settings(**LEVELS, sampling__low_resolution=str(tmp_path / name)), 4)
    with pytest.raises(UserError, match=r"low_resolution='' leaves this upsampler without input images"):
        modes.run_sample(settings(**LEVELS), epath.Path(tmp_path / "run"), None)
    with pytest.raises(UserError, match=r"config\.sampling\.low_resolution is used only by --mode=sample; leave"):
        modes.run_train(settings(**LEVELS, sampling__low_resolution="x.npz"), epath.Path(tmp_path / "run"), None)


def test_the_batch_s_own_small_image_goes_before_the_area_mean() -> None:
    """As data on the scale of clean data: encoded images are averaged, a small image of the batch is taken as it is."""
    low, x = LowResolution(side=2, channels=1, vocabulary=0), jnp.arange(32.0).reshape(2, 4, 4, 1)
    halve = lambda x: x / 2
    expected = np.arange(32.0).reshape(2, 2, 2, 2, 2).mean((2, 4))[..., None] / 2
    np.testing.assert_allclose(low.of_batch({"x": x, "cond": {}}, halve), expected)
    given = jnp.ones((2, 2, 2, 1))
    np.testing.assert_array_equal(low.of_batch({"x": x, "cond": {"low_resolution": given}}, halve), given)
    assert conditioning.specs((low,), 2) == {}  # no column of a batch
    np.testing.assert_array_equal(low.prepare(x, halve), x / 2)
