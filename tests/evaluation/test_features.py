"""A small classifier of digits: it learns, it is kept, it is what it says."""

import jax
import numpy as np
import pytest
from etils import epath

from vdm_jax import data
from vdm_jax.errors import UserError
from vdm_jax.evaluation import features
from vdm_jax.evaluation.frechet import distance

QUICK = features.Settings(width=8, features=16, steps=150, learning_rate=1e-2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifiers")

    return features.classifier(epath.Path(folder), "digits", settings=QUICK), epath.Path(folder)


@pytest.mark.slow
def test_it_tells_digits_apart_and_says_how_well(trained):
    found, _ = trained
    assert found.about["accuracy"] > 0.85 and found.about["test_images"] == 297
    assert found.about["accuracy"] == features.accuracy(found, data.load("digits", "test"))
    assert found.title == "Fréchet distance in the features of a small digits classifier"


@pytest.mark.slow
def test_it_is_kept(trained, monkeypatch):
    found, folder = trained
    monkeypatch.setattr(features, "_fit", None)  # it would fail if it were trained again
    kept = features.classifier(folder, "digits", settings=QUICK)
    assert kept.about == found.about
    jax.tree.map(np.testing.assert_array_equal, kept.params, found.params)


@pytest.mark.slow
def test_it_is_the_same_when_trained_again_and_another_for_another_seed(tmp_path):
    few = QUICK._replace(steps=3)
    first, again, other = (
        features.classifier(epath.Path(tmp_path) / str(k), "digits", settings=few._replace(seed=k // 2))
        for k in range(3)
    )
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)
    assert not np.array_equal(other.params["conv0"]["kernel"], first.params["conv0"]["kernel"])


@pytest.mark.slow
def test_features_do_not_depend_on_the_batch(trained):
    found, _ = trained
    images, _ = features.images_and_labels(data.load("digits", "test"))
    whole = features.extract(found, images)
    assert whole.shape == (297, 16) and whole.dtype == np.float64
    np.testing.assert_allclose(features.extract(found, images[260:]), whole[260:], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_distance_sees_wrong_images_and_a_missing_class(trained):
    found, _ = trained
    images, labels = features.images_and_labels(data.load("digits", "train"))
    half, other = features.extract(found, images[:750]), features.extract(found, images[750:])
    same = distance(half, other)
    assert abs(same.corrected) < 6 * same.standard_error
    lacking = distance(half[labels[:750] != 3], other)
    noise = np.random.default_rng(0).integers(0, 17, (750, 8, 8, 1), np.uint8)
    far = distance(features.extract(found, noise), other)
    assert far.corrected > 2 * lacking.corrected > 4 * abs(same.corrected)


@pytest.mark.slow
def test_a_damaged_file_and_data_without_labels_are_refused(trained, tmp_path):

    _, folder = trained
    (file,) = folder.glob("classifier-digits-*.npz")
    (tmp_path / file.name).write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="remove it"):
        features.classifier(epath.Path(tmp_path), "digits", settings=QUICK)
    np.savez(tmp_path / "bare.npz", x_train=np.zeros((40, 4, 4), np.uint8), x_test=np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(UserError, match="labels"):
        features.classifier(epath.Path(tmp_path), "npz", path=str(tmp_path / "bare.npz"))
    with pytest.raises(UserError, match="labels"):
        features.classifier(epath.Path(tmp_path), "swirl")


@pytest.mark.slow
def test_labels_beyond_the_number_of_classes_are_refused(tmp_path):

    with pytest.raises(UserError, match="number of classes"):
        features.classifier(epath.Path(tmp_path), "digits", settings=QUICK._replace(classes=5))
