"""What is found before anything is compiled: bad records, labels, classes, channels that come first."""

import numpy as np
import pytest

from vdm_jax import data
from vdm_jax.data import checking, messages
from vdm_jax.errors import UserError


@pytest.fixture(autouse=True)
def nothing_said():
    messages.forget()


def _write(folder, count, png, bad=()):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        image = np.full((6, 6, 3), k % 256, np.uint8)
        (folder / f"{k:04d}.png").write_bytes(png(image)[: 40 if k in bad else None])


# ---------------------------------------------------------------- bad records


@pytest.mark.parametrize("bad", [0, 123, 296])
def test_the_one_bad_test_image_is_found(tmp_path, png, bad):
    _write(tmp_path / "train", 20, png)
    _write(tmp_path / "test", 297, png, {bad})
    test = data.load("folder", "test", path=str(tmp_path))
    with pytest.raises(UserError, match=rf"test/{bad:04d}\.png is not a readable image .*remove or replace it"):
        data.check(test, (6, 6, 3), 256, every=True)
    if bad > 100:
        data.check(test, (6, 6, 3), 256, every=True, examples=100)  # evaluation.examples


def test_all_bad_test_images_are_counted(tmp_path, png):
    _write(tmp_path / "train", 20, png)
    _write(tmp_path / "test", 100, png, {3, 50, 51})
    test = data.load("folder", "test", path=str(tmp_path))
    with pytest.raises(
        UserError, match=r"3 of 100 test records can't be decoded \(evaluation needs every image\).*0003"
    ):
        data.check(test, (6, 6, 3), 256, every=True)


def test_a_large_set_is_sampled_evenly(tmp_path, png, monkeypatch):
    monkeypatch.setattr(checking, "CHECKED_VALUES", 50 * 4096)
    _write(tmp_path / "train", 20, png)
    _write(tmp_path / "test", 99, png)
    test = data.load("folder", "test", path=str(tmp_path))
    seen = []
    spy = type("Spy", (), {"__len__": lambda s: 99, "__getitem__": lambda s, k: seen.append(k) or test.source[k]})()
    data.check(test._replace(source=spy), (6, 6, 3), 256, every=True)
    assert sorted(seen) == list(range(0, 99, 2))


def test_two_bad_files_of_302_are_allowed_and_said(tmp_path, png, capfd):
    _write(tmp_path / "train", 302, png, {5, 200})
    _write(tmp_path / "test", 3, png)
    train = data.load("folder", "train", path=str(tmp_path))
    data.check(train, (6, 6, 3), 256, max_undecodable=0.001)
    assert "2 of 302 train records can't be decoded; others replace them in training: " in capfd.readouterr().err
    with pytest.raises(UserError, match=r"2 of 302 train records .* data\.max_undecodable=0 allows"):
        data.check(train, (6, 6, 3), 256, max_undecodable=0.0)


def test_more_than_max_undecodable_is_found_before_training(tmp_path, png):
    _write(tmp_path / "train", 100, png, set(range(0, 80, 8)))
    _write(tmp_path / "test", 3, png)
    train = data.load("folder", "train", path=str(tmp_path))
    with pytest.raises(
        UserError, match=r"10 of 100 train records can't be decoded \(more than .*=0\.001 allows; repair"
    ):
        data.check(train, (6, 6, 3), 256, max_undecodable=0.001)
    data.check(train, (6, 6, 3), 256, max_undecodable=0.1)


def test_a_few_are_forgiven_a_small_set_but_not_most_of_a_tiny_one():
    assert [data.forgiven(count) for count in (10, 20, 59, 60, 302, 10**6)] == [0, 1, 2, 3, 3, 3]
    assert data.allowed(302, 0.001) == pytest.approx(3.302)
    assert data.allowed(10**6, 0.001) == pytest.approx(1003)
    assert data.allowed(302, 0.0) == 0


# ---------------------------------------------------------------- labels and classes

IMAGES = np.zeros((40, 4, 4), np.uint8)


def _npz(tmp_path, **arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    return {split: data.load("npz", split, path=str(tmp_path / "x.npz")) for split in ("train", "test")}


def test_labels_in_a_column_are_labels(tmp_path):
    """As Keras gives CIFAR-10's."""
    labels = np.arange(40).reshape(40, 1) % 10
    for arrays in ({"x": IMAGES, "y": labels}, {"x_train": IMAGES, "y_train": labels, "x_test": IMAGES}):
        train = _npz(tmp_path, **arrays)["train"]
        data.check(train, (4, 4, 1), 256, classes=10)
        order = np.random.default_rng(0).permutation(40)[:36] if "x" in arrays else np.arange(40)
        np.testing.assert_array_equal(train.source.labels, order % 10)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.zeros(40), r"y_train of x\.npz is float64 \(40,\); it must be 40 integers"),
        (np.zeros((40, 10), int), r"y_train of x\.npz is int64 \(40, 10\)"),
        (np.arange(39), r"y_train of x\.npz is int64 \(39,\)"),
        (np.array(["cat"] * 40), r"y_train of x\.npz is <U3"),
        (np.array([None] * 40), r"y_train of x\.npz can't be read"),
    ],
)
def test_bad_labels_refuse_only_models_with_labels(tmp_path, labels, sentence):
    train = _npz(tmp_path, x_train=IMAGES, y_train=labels, x_test=IMAGES)["train"]
    data.check(train, (4, 4, 1), 256)
    assert "label" not in train.source[0]
    for dataset in (train, train._replace(split="fit")):
        with pytest.raises(UserError, match=r"num_classes=3 but .* has no labels \(" + sentence):
            data.check(dataset, (4, 4, 1), 256, classes=3)


def test_more_classes_than_labels_are_refused_in_training_alone(tmp_path):
    sets = _npz(tmp_path, x_train=IMAGES, y_train=np.arange(40) % 3, x_test=IMAGES, y_test=np.zeros(40, int))
    data.check(sets["train"], (4, 4, 1), 256, classes=3)
    data.check(sets["test"], (4, 4, 1), 256, classes=3, every=True)
    with pytest.raises(
        UserError, match=r"num_classes=5 but the labels of .* are 0 to 2, so no image would train class 3, 4; set .*=3$"
    ):
        data.check(sets["train"], (4, 4, 1), 256, classes=5)


def test_a_class_without_images_among_others_is_said(tmp_path, capfd):
    labels = np.arange(40) % 4
    labels[labels == 1] = 2
    train = _npz(tmp_path, x_train=IMAGES, y_train=labels, x_test=IMAGES)["train"]
    data.check(train, (4, 4, 1), 256, classes=4)
    assert "has class 1, which config.model.num_classes=4 includes" in capfd.readouterr().err


def test_a_class_of_the_test_split_alone_is_named(tmp_path, png):
    for part, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "fox")):
        _write(tmp_path / part / name, 20, png)
    train = data.load("folder", "train", path=str(tmp_path))
    with pytest.raises(UserError, match=r"are 0 to 1, so no image would train class 2 \(fox\)"):
        data.check(train, (6, 6, 3), 256, classes=3)


def test_more_classes_than_a_prepared_set_has_are_refused(prepare):
    images = np.zeros((20, 32, 32, 3), np.uint8)
    root = prepare("cifar10", "3.0.2", {"train": (images, np.arange(20) % 10), "test": (images[:5], np.arange(5))})
    train = data.load("cifar10", "train", path=str(root))
    data.check(train, (32, 32, 3), 256, classes=10)
    with pytest.raises(UserError, match=r"num_classes=12 but cifar10 .* has 10 classes, .*; set .*num_classes=10"):
        data.check(train, (32, 32, 3), 256, classes=12)


def test_more_classes_than_digits_are_refused():
    for split in ("train", "fit"):
        data.check(data.load("digits", split), (8, 8, 1), 17, classes=10)
        with pytest.raises(UserError, match=r"so no image would train class 10; set --config\.model\.num_classes=10"):
            data.check(data.load("digits", split), (8, 8, 1), 17, classes=11)


# ---------------------------------------------------------------- arrays of another order


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_first_are_to_be_transposed(tmp_path, channels):
    images = np.zeros((20, channels, 32, 32), np.uint8)
    np.savez(tmp_path / "x.npz", x_train=images, x_test=images)
    with pytest.raises(UserError, match=r"channels before height and width; save array\.transpose\(0, 2, 3, 1\)"):
        data.load("npz", "train", path=str(tmp_path / "x.npz"))
    np.savez(tmp_path / "x.npz", x_train=images.transpose(0, 2, 3, 1), x_test=images.transpose(0, 2, 3, 1))
    data.check(data.load("npz", "train", path=str(tmp_path / "x.npz")), (32, 32, channels), 256)


@pytest.mark.parametrize(
    ("train", "test"), [("X_train", "X_test"), ("x_train", "x_val"), ("x_Training", "x_validation")]
)
def test_other_spellings_of_a_split_of_arrays(tmp_path, train, test):
    np.savez(tmp_path / "x.npz", **{train: IMAGES, test: IMAGES[:7] + 1, f"y{train[1:]}": np.arange(40)})
    loaded = {split: data.load("npz", split, path=str(tmp_path / "x.npz")) for split in ("train", "test")}
    assert (
        loaded["train"].num_examples == 40
        and loaded["test"].source.images.tolist() == (IMAGES[:7, ..., None] + 1).tolist()
    )
    assert loaded["train"].source.labels.tolist() == list(range(40))


def test_half_a_split_of_arrays_is_not_filled_from_all_of_them(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=IMAGES, x=IMAGES)
    assert data.load("npz", "train", path=str(tmp_path / "x.npz")).num_examples == 40
    with pytest.raises(UserError, match="contains x_train, x, and no x_test to go with x_train"):
        data.load("npz", "test", path=str(tmp_path / "x.npz"))


@pytest.mark.parametrize(
    ("split", "meant"),
    [
        ("val", "test"),
        ("validation", "test"),
        ("valid", "test"),
        ("dev", "test"),
        ("training", "train"),
        ("Test", "test"),
    ],
)
def test_a_split_of_another_name_is_answered_with_what_it_means(split, meant):
    with pytest.raises(
        UserError, match=rf"split='{split}' is not one of train, fit, tune, test; did you mean '{meant}'"
    ):
        data.load("digits", split)
