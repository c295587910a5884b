"""Random crops: where they are taken, that they are cuts of a resized image, and what larger images need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from vdm_jax import data
from vdm_jax.config import base, check
from vdm_jax.data.crop import Crops, crop, draw
from vdm_jax.data.datasets import Dataset
from vdm_jax.data.sources import Arrays
from vdm_jax.errors import UserError

RNG = np.random.default_rng(0)
LARGE = RNG.integers(0, 17, (40, 10, 10, 1), np.uint8)


def of(images: np.ndarray, vocabulary: int = 17) -> Dataset:
    source = Arrays(images, np.arange(len(images)) % 3)
    return Dataset(source, "some", "1", "train", images.shape[1:], vocabulary)


def test_a_crop_is_a_cut_of_the_resized_image() -> None:
    smooth = np.add.outer(np.arange(20) * 4, np.arange(20) * 7)[None, :, :, None].astype(np.uint8)
    images = np.concatenate([smooth, RNG.integers(0, 256, smooth.shape, np.uint8)])[..., [0, 0, 0]]
    for side in (16, 18, 20):
        drawn = Crops(np.full(2, side), np.array([[0.0, 0.999], [0.6, 0.3]]))
        found = crop(images, drawn, 16, 255)
        for image, cut, place in zip(images, found, drawn.place, strict=True):
            top, left = np.floor(place * (side - 15)).astype(int)
            whole = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
            wanted = whole[top : top + 16, left : left + 16]
            assert np.abs(cut.astype(int) - wanted).max() <= 1


def test_sides_and_corners_are_those_that_there_are() -> None:
    drawn = draw(np.random.default_rng(1), 4000, 8)
    sides, counts = np.unique(drawn.side, return_counts=True)
    np.testing.assert_array_equal(sides, [8, 9, 10])  # 8/0.8
    assert np.all(np.abs(counts - 4000 / 3) < 4 * np.sqrt(4000 * 2 / 9))
    exact = Crops(np.full(9, 10), np.stack(np.meshgrid([0.1, 0.4, 0.9], [0.1, 0.4, 0.9]), -1).reshape(-1, 2))
    images = np.broadcast_to(np.arange(100, dtype=np.uint8).reshape(1, 10, 10, 1), (9, 10, 10, 1))
    assert sorted(crop(images, exact, 8, 255)[:, 0, 0, 0].tolist()) == [0, 1, 2, 10, 11, 12, 20, 21, 22]


def batches(processes: int, count: int = 3, **settings: Any) -> list[np.ndarray]:
    """Images of whole batches, from the parts of so many processes."""
    parts = []
    for index in range(processes):
        made = data.train_iterator(
            of(LARGE), seed=3, batch_size=8, process_index=index, process_count=processes, **settings
        )
        parts.append([next(made)["image"] for _ in range(count)])
    return [np.concatenate(rows) for rows in zip(*parts, strict=True)]


def test_crops_are_a_function_of_seed_and_place_whoever_makes_them() -> None:
    settings = {"augment": ("flip", "crop"), "size": 8}
    one, again, two = batches(1, **settings), batches(1, **settings), batches(2, **settings)
    assert one[0].shape == (8, 8, 8, 1) and one[0].dtype == np.uint8 and max(x.max() for x in one) <= 16
    for a, b, c in zip(one, again, two, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    assert not np.array_equal(one[0], one[1])


def test_larger_images_are_whole_in_an_evaluation() -> None:
    found = data.whole(of(LARGE), (8, 8, 1))
    data.check(found, (8, 8, 1), 17, classes=3, every=True)
    batch = next(data.eval_batches(found, batch_size=5))
    expected = np.asarray(Image.fromarray(LARGE[2, ..., 0]).resize((8, 8), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(batch["image"][2, ..., 0], np.minimum(expected, 16))
    np.testing.assert_array_equal(batch["label"], [0, 1, 2, 0, 1])
    as_it_is = of(LARGE)
    assert data.whole(as_it_is, (10, 10, 1)) is as_it_is


def test_other_sizes_are_refused() -> None:
    data.check(of(LARGE), (8, 8, 1), 17, crops=True)
    for shape, crops in (((8, 8, 1), False), ((12, 12, 1), True), ((8, 8, 3), True)):
        with pytest.raises(UserError, match=r"but the records of some \(1\) are \(10, 10, 1\)"):
            data.check(of(LARGE), shape, 17, crops=crops)
    config = base()
    config.data.augment = ("crop",)
    with pytest.raises(UserError, match=r"'crop', which is for config\.method='classifier'"):
        check(config)
