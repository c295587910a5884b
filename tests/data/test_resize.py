"""Folders of mixed sizes: data.resize, and the sentences that lead to it."""

import numpy as np
import pytest
from PIL import Image

from vdm_jax import data
from vdm_jax.config import field_table
from vdm_jax.data import messages
from vdm_jax.data.resize import RESIZES, Resize, in_words, make
from vdm_jax.errors import UserError

RNG = np.random.default_rng(0)


def _noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels)).astype(np.uint8)


def _resized(kind: str, image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Resize(kind, height, width)(Image.fromarray(image)))


def _means(image: np.ndarray, factor: int) -> np.ndarray:
    height, width, channels = image.shape
    cells = image.reshape(height // factor, factor, width // factor, factor, channels)
    return cells.astype(float).mean((1, 3))


@pytest.fixture(autouse=True)
def nothing_said():
    messages.forget()


# ---------------------------------------------------------------- one image


@pytest.mark.parametrize("kind", RESIZES)
def test_an_image_of_the_size_stays_as_it_is(kind):
    image = _noise(6, 8)
    np.testing.assert_array_equal(_resized(kind, image, 6, 8), image)


@pytest.mark.parametrize("kind", RESIZES)
@pytest.mark.parametrize("shape", [(5, 30), (30, 5), (1, 1), (3, 100), (17, 13)])
def test_a_flat_image_stays_flat_in_every_size(kind, shape):
    found = _resized(kind, np.full((*shape, 3), 77, np.uint8), 8, 12)
    assert found.shape == (8, 12, 3)
    assert set(np.unique(found)) <= {77, 0} and (kind == "pad" or found.min() == 77)


def test_area_takes_means_of_whole_blocks():
    image = _noise(12, 32)
    np.testing.assert_allclose(_resized("area", image, 3, 8), _means(image, 4), atol=1)


def test_crop_takes_the_center_of_the_resized_image():
    image = np.zeros((16, 48, 3), np.uint8)
    image[:, 16:32] = _noise(16, 16)
    np.testing.assert_allclose(_resized("crop", image, 8, 8), _means(image[:, 16:32], 2), atol=1)
    upright = image.transpose(1, 0, 2)
    np.testing.assert_array_equal(_resized("crop", upright, 8, 8), _resized("crop", image, 8, 8).transpose(1, 0, 2))
    wide = _noise(8, 21)
    np.testing.assert_array_equal(_resized("crop", wide, 8, 8), wide[:, 6:14])  # of the right height: only cut


def test_crop_is_as_improved_ddpm_prepares_imagenet():
    """Halved by boxes while at least twice the size, bicubic so that the shorter side fits, then the center."""
    image = Image.fromarray(_noise(101, 75))
    halved = image.resize((37, 50), Image.Resampling.BOX)  # 37 is less than twice 20
    small = np.asarray(halved.resize((20, 27), Image.Resampling.BICUBIC))  # 50 · 20/37 = 27.03
    np.testing.assert_array_equal(np.asarray(Resize("crop", 20, 20)(image)), small[3:23])


def test_pad_keeps_all_of_the_image_on_black():
    image = _noise(8, 32) | 1
    found = _resized("pad", image, 16, 16)
    np.testing.assert_allclose(found[6:10], _means(image, 2), atol=1)
    assert not found[:6].any() and not found[10:].any()


# ---------------------------------------------------------------- a folder


def _write(folder, sizes, channels=3):
    images = {}
    for k, (height, width) in enumerate(sizes):
        path = folder / f"{k:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images[str(path)] = _noise(height, width, channels)
        Image.fromarray(images[str(path)].squeeze()).save(path)
    return images


SIZES = [(8, 8), (20, 30), (5, 9), (16, 16)] * 5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", RESIZES)
def test_every_record_is_its_file_resized(tmp_path, kind, channels):
    images = _write(tmp_path / "x", SIZES, channels)
    options = {"path": str(tmp_path / "x"), "shape": (8, 8, channels), "resize": kind}
    for split in ("train", "test"):
        dataset = data.load("folder", split, **options)
        assert dataset.shape == (8, 8, channels) and dataset.version.endswith(f", resize {kind}")
        data.check(dataset, (8, 8, channels), 256, every=True)
        for k, path in enumerate(dataset.source.paths):
            record = dataset.source[k]["image"]
            np.testing.assert_array_equal(record.squeeze(), _resized(kind, images[path].squeeze(), 8, 8))


def test_what_is_done_to_how_many_is_said_once(tmp_path, capfd):
    for part in ("train", "test"):
        _write(tmp_path / part, SIZES)
    for _ in range(2):
        data.load("folder", "train", path=str(tmp_path), shape=(8, 8, 3), resize="crop")
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].endswith(
        "data.resize='crop': 15 of 20 images (4 sizes, 5 × 9 to 20 × 30) are resized to cover 8 × 8 pixels and "
        "center-cropped; 5 of them are smaller and enlarged"
    )


def test_a_look_at_some_says_of_how_many():
    words = in_words(Resize("pad", 8, 8), [(8, 8), (4, 9)], 1000)
    assert "1 of 2 sampled images, of 1,000 in total, (2 sizes, 4 × 9 to 8 × 8) are resized to fit within" in words


def test_mixed_sizes_are_answered_with_resize_and_all_sizes(tmp_path):
    _write(tmp_path / "x", SIZES[1:])
    dataset = data.load("folder", "train", path=str(tmp_path / "x"), shape=(8, 8, 3))
    with pytest.raises(UserError, match=r"have 4 sizes, 5 × 9 to 20 × 30; set --config\.data\.resize='crop'"):
        data.check(dataset, (8, 8, 3), 256)
    with pytest.raises(UserError, match=r"have 4 sizes, 5 × 9 to 20 × 30; set --config\.data\.resize='crop'"):
        data.check(dataset, dataset.shape, 256)  # after following advice to take the first image's shape


def test_one_size_is_answered_with_the_shape_or_resize(tmp_path):
    _write(tmp_path / "x", [(6, 10)] * 20)
    dataset = data.load("folder", "train", path=str(tmp_path / "x"), shape=(8, 8, 3))
    with pytest.raises(
        UserError, match=r"set --config\.data\.shape='\(6, 10, 3\)', or set --config\.data\.resize='crop'"
    ):
        data.check(dataset, (8, 8, 3), 256)


def test_an_image_that_resizes_is_turned_first(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "x").mkdir()
    image = _noise(4, 8)
    for k in range(20):
        Image.fromarray(image).save(tmp_path / "x" / f"{k}.png", exif=exif)
    dataset = data.load("folder", "test", path=str(tmp_path / "x"), shape=(8, 4, 3), resize="crop")
    np.testing.assert_array_equal(dataset.source[0]["image"], np.rot90(image, -1))


def test_files_of_8_bits_have_256_levels_and_the_sentence_says_so(tmp_path):
    _write(tmp_path / "x", [(8, 8)] * 20)
    load = lambda vocabulary: data.load("folder", "train", path=str(tmp_path / "x"), vocabulary=vocabulary)
    for wrong in (17, 64, None):
        with pytest.raises(UserError, match=r"; set --config\.data\.vocabulary=256"):
            data.check(load(wrong), (8, 8, 3), wrong)
    data.check(load(256), (8, 8, 3), 256)


@pytest.mark.parametrize(
    ("kind", "name", "shape", "sentence"),
    [
        ("stretch", "folder", (8, 8, 3), "data.resize='stretch' is not one of '', 'crop', 'pad', 'area', 'bicubic'"),
        (
            "crop",
            "digits",
            (8, 8, 1),
            "data.resize='crop' is for data.name='folder', .* not for 'digits'; set it to ''",
        ),
        ("crop", "folder", None, "data.resize='crop' needs the size"),
    ],
)
def test_resizes_that_cannot_be_are_named(kind, name, shape, sentence):
    with pytest.raises(UserError, match=sentence):
        make(kind, name, shape)


def test_the_field_has_the_resizes_that_there_are():
    assert field_table()["data.resize"].choices == ("", *RESIZES)
