"""Where an image lies in a grid, which gray a level is, and what the strip shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from etils import epath
from matplotlib.figure import Figure
from PIL import Image

from vdm_jax.evaluation.grids import _captions
from vdm_jax.evaluation.pictures import (
    LINE,
    Captions,
    grid,
    log_if_wide,
    save_blocks,
    save_image,
    save_points,
    save_samples,
    save_strip,
    to_bytes,
)


def test_levels_span_black_to_white() -> None:
    np.testing.assert_array_equal(to_bytes(np.arange(17), 17), np.round(np.arange(17) * 255 / 16))
    np.testing.assert_array_equal(to_bytes(np.arange(256), 256), np.arange(256))
    np.testing.assert_array_equal(to_bytes(np.asarray([0, 1]), 2), [0, 255])


@pytest.mark.parametrize("channels", [1, 3])
def test_images_lie_row_by_row(channels: int) -> None:
    images = np.arange(5 * 4 * 3 * channels, dtype=np.uint8).reshape(5, 4, 3, channels)
    picture = grid(images)  # 3 columns, 2 rows
    assert picture.shape == (2 * 5 + 1, 3 * 4 + 1, channels)
    for k in range(5):
        top, left = 1 + k // 3 * 5, 1 + k % 3 * 4
        np.testing.assert_array_equal(picture[top : top + 4, left : left + 3], images[k])
    assert (picture[::5] == 200).all() and (picture[:, ::4] == 200).all()  # lines
    assert (picture[6:10, 9:12] == 200).all()  # the sixth place is empty
    assert grid(images, columns=5).shape == (6, 21, channels)


def test_other_numbers_of_channels_are_shown_as_gray() -> None:
    images = np.zeros((1, 2, 2, 2), np.uint8)
    images[..., 1] = 100
    np.testing.assert_array_equal(grid(images)[1:-1, 1:-1], np.full((2, 2, 1), 50))


@pytest.mark.parametrize(("size", "scale"), [((8, 10, 3), 51), ((300, 20, 1), 1), ((600, 5, 3), 1)])
def test_small_pictures_are_enlarged_by_whole_numbers(size: Any, scale: int, tmp_path: Any) -> None:
    picture = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    save_image(epath.Path(tmp_path) / "a.png", picture)
    read = np.asarray(Image.open(tmp_path / "a.png")).reshape(size[0] * scale, size[1] * scale, size[2])
    np.testing.assert_array_equal(read[::scale, ::scale], picture)
    np.testing.assert_array_equal(read, picture.repeat(scale, 0).repeat(scale, 1))


def test_grid_of_samples_is_a_picture_of_their_levels(tmp_path: Any) -> None:
    samples = np.random.default_rng(0).integers(0, 17, (4, 8, 8, 1))
    save_samples(epath.Path(tmp_path) / "a.png", samples, 17)
    read = np.asarray(Image.open(tmp_path / "a.png"))
    scale = 512 // 19
    assert read.shape == (19 * scale, 19 * scale)
    np.testing.assert_array_equal(read[::scale, ::scale][10:18, 1:9], to_bytes(samples[2, ..., 0], 17))


def test_strip_goes_from_noise_to_data(tmp_path: Any) -> None:
    # Three samples with latents at two times; x̂ = (2 l + 1)/V − 1 encodes level l.
    levels = np.random.default_rng(0).integers(0, 17, (3, 8, 8, 1))
    encoded = (2 * levels + 1) / 17 - 1
    states = np.stack([np.full_like(encoded, 9.0), encoded])  # far out: clipped to white
    save_strip(epath.Path(tmp_path) / "a.png", states, levels, 17)
    scale = 512 // 28
    read = np.asarray(Image.open(tmp_path / "a.png"))[::scale, ::scale]
    assert read.shape == (3 * 9 + 1, 3 * 9 + 1)
    for row in range(3):
        cells = [read[1 + 9 * row : 9 + 9 * row, 1 + 9 * column : 9 + 9 * column] for column in range(3)]
        assert (cells[0] == 255).all()
        np.testing.assert_array_equal(cells[1], cells[2])
        np.testing.assert_array_equal(cells[2], to_bytes(levels[row, ..., 0], 17))


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_points_of_any_dimension_are_drawn(dimensions: int, tmp_path: Any) -> None:
    points = np.random.default_rng(0).normal(size=(20, dimensions))
    save_points(epath.Path(tmp_path) / "a.png", {"samples": points, "w = 2": points})
    save_strip(epath.Path(tmp_path) / "b.png", np.stack([points, points]), points, None)
    left, right = (np.asarray(Image.open(tmp_path / name).convert("L")) for name in ("a.png", "b.png"))
    assert left.min() < 200 < left.max() and right.min() < 200 < right.max()


def test_blocks_of_a_grid_begin_new_rows_beside_their_captions(tmp_path: Any) -> None:
    """All 2 × 5 images are there, in 2 × 2 rows of 3; the margins have dark text beside each row and above columns."""
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 1)).astype(np.uint8)
    captions = Captions("class", ("0", "1", "2"), ("w = 0", "w = 0", "w = 1", "w = 1"))
    save_blocks(epath.Path(tmp_path) / "a.png", [images[:5], images[5:]], 3, captions)
    read = np.asarray(Image.open(tmp_path / "a.png"))
    scale = 512 // (4 * 9 + 1)
    side, height, width = 9 * scale, (4 * 9 + 1) * scale, (3 * 9 + 1) * scale
    margin, left = read[-height:], read.shape[1] - width
    cells = margin[:, left:][::scale, ::scale]
    for block, start in ((0, 0), (1, 5)):
        for k in range(6):
            top, side_ = 1 + 9 * (2 * block + k // 3), 1 + 9 * (k % 3)
            expected = images[start + k, ..., 0] if k < 5 else np.full((8, 8), LINE)
            np.testing.assert_array_equal(cells[top : top + 8, side_ : side_ + 8], expected)
    assert left > 0 and all(margin[k * side : (k + 1) * side, :left].min() < 50 for k in range(4))
    above = read[:-height]
    assert all(above[:, left + k * side : left + (k + 1) * side].min() < 50 for k in range(3))
    assert read[:, 0].min() == 255


def test_captions_of_a_grid_say_w_and_class() -> None:
    in_turn = _captions((0.0, 3.0), 12, 10, np.arange(12) % 10, True)
    assert in_turn == ("class", tuple(map(str, range(10))), ("w = 0", "w = 0", "w = 3", "w = 3"))
    assert _captions((2.0,), 16, None, np.full(16, 3), False) == ("class 3", (), ("w = 2",) * 4)
    many = _captions((0.0, 0.5), 36, 20, np.arange(36), False)
    assert many.down[1:3] == ("w = 0, classes 20 to 35", "w = 0.5, classes 0 to 19")
    assert _captions((0.0,), 4, None, None, False) == ("", (), ("", ""))


@pytest.mark.parametrize(
    ("values", "wide"),
    [([1, 101], True), ([1, 99], False), ([0, 1e4], False), ([-1, 1e4], False), ([np.nan, 1e-3, 1], True), ([], False)],
)
def test_positive_values_over_two_decades_have_a_log_axis(values: list[float], wide: bool) -> None:
    axes = Figure().subplots()
    assert log_if_wide(axes, np.asarray(values, float)) == wide
    assert axes.get_yscale() == ("log" if wide else "linear")
