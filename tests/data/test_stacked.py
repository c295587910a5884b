"""StackedMNIST and the 25 Gaussians."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from vdm_jax import data
from vdm_jax.data.arrays import GAUSSIANS_DEVIATION, gaussians25_centers
from vdm_jax.data.padding import pad_one
from vdm_jax.data.sources import Mapped
from vdm_jax.errors import UserError


def digits(file: Path, labels: bool = True) -> str:
    """Forty 28 × 28 'digits', each of one gray, 10 + its number; label: number mod 10."""
    number = np.arange(40)
    images = np.broadcast_to((10 + number)[:, None, None], (40, 28, 28)).astype(np.uint8)
    with_labels = {"y_train": number % 10, "y_test": number[:8] % 10} if labels else {}
    np.savez(file, x_train=images, x_test=images[:8], **with_labels)
    return str(file)


def test_stacked_digits_are_channels_with_a_margin_and_every_digit_is_twice_in_each(tmp_path: Path) -> None:
    path = digits(tmp_path / "mnist.npz")
    dataset = data.load("stacked_mnist", "train", path=path)
    assert (len(dataset.source), dataset.shape, dataset.vocabulary) == (80, (32, 32, 3), 256)
    gray = np.zeros((80, 3), int)
    for k in range(80):
        record = dataset.source[k]
        inside = record["image"][2:30, 2:30].reshape(-1, 3)
        assert record["image"].sum() == inside.sum() and (inside == inside[0]).all()
        gray[k] = inside[0]
        a, b, c = (gray[k] - 10) % 10
        assert record["label"] == 100 * a + 10 * b + c
    for channel in gray.T:
        np.testing.assert_array_equal(np.bincount(channel - 10, minlength=40), 2)
    assert (gray[:, 0] == gray[:, 1]).mean() < 0.2 and (gray[:, 1] == gray[:, 2]).mean() < 0.2
    again = data.load("stacked_mnist", "train", path=path).source[5]
    np.testing.assert_array_equal(again["image"], dataset.source[5]["image"])
    assert len(data.load("stacked_mnist", "test", path=path).source) == 16


def test_halved_stacked_digits_are_averages_of_the_whole_ones(tmp_path: Path) -> None:
    """Of 2 × 2 pixels, rounded. Labels and their order stay."""
    path = digits(tmp_path / "mnist.npz")
    whole, half = (data.load("stacked_mnist", "test", path=path, shape=(n, n, 3)) for n in (32, 16))
    assert half.shape == (16, 16, 3) and half.version != whole.version
    for k in range(16):
        large, small = whole.source[k], half.source[k]
        means = large["image"].reshape(16, 2, 16, 2, 3).mean((1, 3))
        np.testing.assert_array_equal(small["image"], np.floor(means + 0.5))
        assert small["label"] == large["label"]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_single_digits_have_the_margin_and_the_averages_of_stacked_ones(tmp_path: Path, name: str) -> None:
    path = digits(tmp_path / "mnist.npz")
    given = data.load(name, "train", path=path)
    assert data.load(name, "train", path=path, shape=(28, 28, 1)).version == given.version
    for side in (16, 32):
        single = data.load(name, "train", path=path, shape=(side, side, 1))
        stacked = data.load("stacked_mnist", "train", path=path, shape=(side, side, 3))
        assert single.shape == (side, side, 1) and "padded" in single.version
        channels = {record["image"][..., 0].tobytes() for record in (stacked.source[k] for k in range(80))}
        assert channels == {single.source[k]["image"].tobytes() for k in range(40)}
    lazy = Mapped(given.source, partial(pad_one, side=16))
    np.testing.assert_array_equal(
        lazy[3]["image"], data.load(name, "train", path=path, shape=(16, 16, 1)).source[3]["image"]
    )
    assert lazy[3]["label"] == 3 and lazy.labels is not None and lazy.labels[3] == 3


def test_stacked_digits_without_labels_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs the labels of mnist"):
        data.load("stacked_mnist", "train", path=digits(tmp_path / "mnist.npz", labels=False))


def test_25_gaussians_are_equally_likely_and_narrow() -> None:
    train, test = (data.load("gaussians25", split).source for split in ("train", "test"))
    centers = gaussians25_centers()
    np.testing.assert_allclose(np.unique(np.round(centers * 2.828, 6)), [-4, -2, 0, 2, 4])
    for source in (train, test):
        residual = source.images - centers[source.labels]
        np.testing.assert_allclose(residual.std(0), GAUSSIANS_DEVIATION, rtol=0.03)
        nearest = np.square(source.images[:, None] - centers).sum(-1).argmin(1)
        np.testing.assert_array_equal(nearest, source.labels)
        share = np.bincount(source.labels, minlength=25) / len(source)
        assert np.abs(share - 0.04).max() < 0.01
    assert np.isin(test.images[:, 0], train.images[:, 0]).mean() < 0.5  # draws of their own
