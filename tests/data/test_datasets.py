"""Data sets in memory: which bytes they are, how they are split, and what is refused."""

import hashlib

import numpy as np
import pytest

from vdm_jax import data
from vdm_jax.data.sources import Arrays
from vdm_jax.errors import UserError


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


# ---------------------------------------------------------------- digits


@pytest.mark.parametrize(
    ("split", "count", "images", "labels"),
    [
        ("train", 1500, "03ba0cd2e7c55fe1", "447d61afcbe8e429"),
        ("fit", 1350, "08877af4db0bfcd6", "5855d86f3621a859"),
        ("tune", 150, "418809a6ee708f6d", "e8a2db53a7f272a4"),
        ("test", 297, "5a5cef63efc660ef", "ff29780a8655cf03"),
    ],
)
def test_digits_splits_hold_these_bytes(split, count, images, labels):
    digits = data.load("digits", split)
    assert (digits.num_examples, digits.shape, digits.vocabulary) == (count, (8, 8, 1), 17)
    assert digits.version == "uci-optdigits-test (scikit-learn order) 1,500/297"
    assert _hash(digits.source.images) == images
    assert _hash(digits.source.labels.astype(np.uint8)) == labels
    data.check(digits, (8, 8, 1), 17)


def test_halved_digits_are_rounded_means_of_two_by_two_pixels():
    whole, half = data.load("digits", "test"), data.load("digits", "test", shape=(4, 4, 1))
    means = whole.source.images.astype(float).reshape(297, 4, 2, 4, 2, 1).mean((2, 4))
    np.testing.assert_array_equal(half.source.images, np.floor(means + 0.5))
    np.testing.assert_array_equal(half.source.labels, whole.source.labels)
    assert (half.shape, half.vocabulary, half.version) == ((4, 4, 1), 17, f"halved, {whole.version}")


def test_digits_are_scikit_learns_in_the_order_of_the_design():
    sklearn = pytest.importorskip("sklearn.datasets")
    original = sklearn.load_digits()
    order = np.random.default_rng(0).permutation(1797)
    for split, chosen in {"train": order[:1500], "tune": order[1350:1500], "test": order[1500:]}.items():
        source = data.load("digits", split).source
        np.testing.assert_array_equal(source.images[..., 0], original.images[chosen])
        np.testing.assert_array_equal(source.labels, original.target[chosen])


def test_digits_use_all_17_values():
    assert np.array_equal(np.unique(data.load("digits", "train").source.images), np.arange(17))


# ---------------------------------------------------------------- swirl


def test_swirl_is_standardized_and_deterministic():
    train, again = (data.load("swirl", "train").source.images for _ in range(2))
    np.testing.assert_array_equal(train, again)
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-6)
    data.check(data.load("swirl", "train"), (2,), None)


def test_swirl_test_points_are_an_independent_draw_of_the_same_spiral():
    train, test = (data.load("swirl", split).source.images for split in ("train", "test"))
    correlation = np.corrcoef(train[: len(test)].T, test.T)[:2, 2:]
    np.testing.assert_allclose(correlation, 0, atol=0.06)
    moments = np.cov(test.T)  # 5,000 draws: standard errors near 0.014
    np.testing.assert_allclose(moments, np.cov(train.T), atol=0.06)
    np.testing.assert_allclose(test.mean(axis=0), 0, atol=0.06)


def test_swirl_lies_on_a_spiral():
    """The angle of a point is its radius, up to the noise: distances from (r cos r, r sin r) are Rayleigh, σ = 1/2."""
    points = data.load("swirl", "train").source.images.astype(np.float64)
    r = np.linspace(1.5 * np.pi, 4.5 * np.pi, 4000)
    curve = np.stack([r * np.cos(r), r * np.sin(r)], axis=-1)
    uniform = (curve - curve.mean(axis=0)) / np.sqrt(curve.var(axis=0) + 0.25)
    nearest = np.abs(points[:500, None] - uniform).max(axis=-1).min(axis=1)
    assert np.quantile(nearest, 0.95) < 2.5 * 0.5 / curve.std()
    assert nearest.max() < 0.6  # neighboring turns are 2π / curve.std() apart: about 1


# ---------------------------------------------------------------- npz


def test_npz_with_its_own_split(tmp_path):
    path = tmp_path / "mine.npz"
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (count, 6, 5, 3)).astype(np.uint8) for count in (30, 7))
    np.savez_compressed(path, x_train=train, y_train=np.arange(30), x_test=test)
    loaded = data.load("npz", "train", path=str(path))
    assert loaded.version == f"npz:mine.npz:{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    np.testing.assert_array_equal(loaded.source.images, train)
    assert [loaded.source[i]["label"] for i in (0, 29)] == [0, 29]
    np.testing.assert_array_equal(data.load("npz", "fit", path=str(path)).source.images, train[:27])
    np.testing.assert_array_equal(data.load("npz", "tune", path=str(path)).source.labels, [27, 28, 29])
    held_out = data.load("npz", "test", path=str(path))
    np.testing.assert_array_equal(held_out.source.images, test)
    assert "label" not in held_out.source[0]


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("images", "labels")])
def test_npz_without_a_split_gets_a_seeded_one_that_the_version_states(tmp_path, x, y):
    images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1) * np.ones((1, 4, 4), np.uint8)
    np.savez(tmp_path / "all.npz", **{x: images, y: np.arange(40)})
    train, test = (data.load("npz", split, path=str(tmp_path / "all.npz")) for split in ("train", "test"))
    assert train.version.endswith(" split 90/10 seed 0")
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(train.source.labels, order[:36])
    np.testing.assert_array_equal(test.source.labels, order[36:])
    np.testing.assert_array_equal(test.source.images[:, 2, 1, 0], order[36:])


def test_at_most_5000_images_are_for_tuning(tmp_path):
    images = (np.arange(60_000) % 251).astype(np.uint8).reshape(-1, 1, 1)
    np.savez(tmp_path / "x.npz", x_train=images)
    tune = data.load("npz", "tune", path=str(tmp_path / "x.npz"))
    np.testing.assert_array_equal(tune.source.images[..., 0], images[55_000:])
    assert data.load("npz", "fit", path=str(tmp_path / "x.npz")).num_examples == 55_000


def test_npz_of_points_and_of_few_gray_levels(tmp_path):
    points = np.random.default_rng(0).normal(size=(50, 3))
    np.savez(tmp_path / "points.npz", x=points)
    loaded = data.load("npz", "test", path=str(tmp_path / "points.npz"))
    assert (loaded.shape, loaded.vocabulary) == ((3,), None)
    data.check(loaded, (3,), None)
    chosen = np.random.default_rng(0).permutation(50)[45:]
    np.testing.assert_array_equal(loaded.source.images, points[chosen].astype(np.float32))

    np.savez(tmp_path / "gray.npz", x=np.full((50, 2, 2), 3, np.uint8))
    for vocabulary in (4, 256):
        gray = data.load("npz", "train", path=str(tmp_path / "gray.npz"), vocabulary=vocabulary)
        data.check(gray, (2, 2, 1), vocabulary)


def test_cifar10_and_mnist_as_npz_keep_their_name_and_say_which_file(tmp_path):
    images = np.zeros((20, 28, 28), np.uint8)
    np.savez(tmp_path / "subset.npz", x_train=images, x_test=images[:5])
    for name in ("mnist", "fashion_mnist", "cifar10"):
        loaded = data.load(name, "test", path=str(tmp_path / "subset.npz"))
        assert (loaded.name, loaded.num_examples) == (name, 5)
        assert loaded.version.startswith("npz:subset.npz:")
    with pytest.raises(UserError, match=r"data\.shape=\(32, 32, 3\) but the records of cifar10"):
        data.check(loaded, (32, 32, 3), 256)


IMAGES = np.zeros((20, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": IMAGES / 255.0}, r"x_train of bad.npz is float64 \(20, 4, 4\); images must be uint8"),
        ({"x_train": IMAGES.astype(np.int64)}, "x_train of bad.npz is int64"),
        ({"x_train": IMAGES[0, 0]}, r"is uint8 \(4,\)"),
        ({"pictures": IMAGES}, "contains pictures, and neither x_train nor x"),
        ({"x_train": IMAGES[:0]}, "is empty"),
        ({"x_train": np.asarray([None, 3])}, "not a readable .npz file"),
    ],
)
def test_npz_files_that_are_not_data_are_user_errors(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=message):
        data.load("npz", "train", path=str(tmp_path / "bad.npz"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "array", "folder"])
def test_damaged_npz_files_are_user_errors(tmp_path, damage):
    path = tmp_path / "bad.npz"
    np.savez_compressed(path, x_train=np.random.default_rng(0).integers(0, 256, (99, 8, 8)).astype(np.uint8))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    contents = {"cut": whole[: len(whole) // 2], "flipped": bytes(flipped), "empty": b"", "text": b"x_train\n"}
    if damage == "array":
        with path.open("wb") as file:
            np.save(file, IMAGES)
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(contents[damage])
    with pytest.raises(UserError, match=r"not a readable \.npz file .*write it again"):
        data.load("npz", "train", path=str(path))


# ---------------------------------------------------------------- names, and what the config says


def test_all_the_names_are_there():
    assert set(data.names()) == {
        "digits",
        "swirl",
        "gaussians25",
        "mnist",
        "fashion_mnist",
        "stacked_mnist",
        "cifar10",
        "imagenet32",
        "imagenet64",
        "imagenet32_resized",
        "imagenet64_resized",
        "shapes",
        "shapes_held_out",
        "emoji",
        "npz",
        "folder",
        "captions",
    }


@pytest.mark.parametrize(
    ("name", "split", "path", "message"),
    [
        ("digit", "train", "", "data.name='digit' is not one of .*did you mean 'digits'"),
        ("digits", "validation", "", "split='validation' is not one of train, fit, tune, test"),
        ("digits", "train", "/somewhere", "data.path='/somewhere' is not used by 'digits'"),
        ("swirl", "train", "/somewhere", "data.path='/somewhere' is not used by 'swirl'"),
        ("npz", "train", "", "data.path is empty; set --config.data.path to an .npz file"),
        ("npz", "train", "/nowhere/x.npz", "data.path='/nowhere/x.npz' does not exist"),
        ("folder", "train", "", "data.path is empty; set --config.data.path to a folder of images"),
        ("cifar10", "train", "/nowhere", "data.path='/nowhere' does not exist"),
        ("imagenet32", "test", "/nowhere", "data.path='/nowhere' does not exist"),
        ("imagenet64_resized", "test", "/nowhere", "data.path='/nowhere' does not exist"),
    ],
)
def test_names_splits_and_paths_that_are_wrong_are_named(name, split, path, message):
    with pytest.raises(UserError, match=message):
        data.load(name, split, path=path)


def test_check_names_the_field_both_values_and_the_way_out():
    digits = data.load("digits", "train")
    with pytest.raises(UserError, match=r"data\.shape=\(28, 28, 1\) but .*\(8, 8, 1\); set --config\.data\.shape"):
        data.check(digits, (28, 28, 1), 17)
    with pytest.raises(
        UserError, match=r"data\.vocabulary=256 but .* has vocabulary 17; set --config\.data\.vocabulary=17"
    ):
        data.check(digits, (8, 8, 1), 256)
    with pytest.raises(
        UserError, match=r"data\.vocabulary=256 but .* has vocabulary 0; set --config\.data\.vocabulary=0"
    ):
        data.check(data.load("swirl", "train"), (2,), 256)


def test_check_reads_the_whole_array_for_its_range(tmp_path):
    images = IMAGES.copy()
    images[13, 2, 1] = 16
    np.savez(tmp_path / "x.npz", x_train=images, x_test=IMAGES)
    loaded = data.load("npz", "train", path=str(tmp_path / "x.npz"), vocabulary=16)
    with pytest.raises(
        UserError, match=r"values up to 15 but .* holds 16; set --config\.data\.vocabulary=256, .* 17 or more"
    ):
        data.check(loaded, (4, 4, 1), 16)
    data.check(data.load("npz", "test", path=str(tmp_path / "x.npz"), vocabulary=16), (4, 4, 1), 16)


def test_check_refuses_points_that_are_not_numbers(tmp_path):
    points = np.ones((20, 2), np.float32)
    points[17, 1] = np.nan
    np.savez(tmp_path / "x.npz", x_train=points)
    with pytest.raises(UserError, match="holds NaN or infinite values"):
        data.check(data.load("npz", "train", path=str(tmp_path / "x.npz")), (2,), None)


def test_check_refuses_a_foreign_dtype():
    digits = data.load("digits", "test")
    floats = digits._replace(source=Arrays(digits.source.images.astype(np.float32)))
    with pytest.raises(UserError, match="is float32, not uint8"):
        data.check(floats, (8, 8, 1), 17)
