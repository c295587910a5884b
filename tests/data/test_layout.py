"""What of a folder is data: hidden folders, links, spellings of the split, class folders and their numbers."""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from vdm_jax import data
from vdm_jax.data import messages
from vdm_jax.errors import UserError


def _put(path: pathlib.Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


def _fill(folder: pathlib.Path, count: int = 12, first: int = 0) -> None:
    """`count` images, image k filled with first + k."""
    for k in range(count):
        _put(folder / f"{k:02d}.png", first + k)


def _load(path: pathlib.Path, split: str = "train") -> data.Dataset:
    return data.load("folder", split, path=str(path), shape=(8, 8, 1), vocabulary=256)


def _values(dataset: data.Dataset) -> list[int]:
    return sorted(int(dataset.source[k]["image"][0, 0, 0]) for k in range(dataset.num_examples))


def _labels(dataset: data.Dataset) -> list[int]:
    return [dataset.source[k]["label"] for k in range(dataset.num_examples)]


@pytest.fixture(autouse=True)
def nothing_said():
    messages.forget()


# ---------------------------------------------------------------- hidden folders


@pytest.mark.parametrize(
    "hidden", [".ipynb_checkpoints", "__MACOSX", ".git/deep", "@eaDir", "System Volume Information", "a/.thumbs"]
)
def test_hidden_and_system_folders_are_neither_data_nor_classes(tmp_path, hidden):
    for k, name in enumerate(("a", "b")):
        _fill(tmp_path / name, first=100 * k)
    _fill(tmp_path / hidden, first=200)
    train, test = _load(tmp_path), _load(tmp_path, "test")
    assert (train.num_examples, test.num_examples) == (22, 2)
    assert sorted(_values(train) + _values(test)) == [*range(12), *range(100, 112)]
    assert train.class_names == {0: "a", 1: "b"}
    assert set(_labels(train)) == {0, 1}


def test_a_folder_within_a_hidden_one_is_read(tmp_path):
    _fill(tmp_path / ".cache" / "images")
    assert _load(tmp_path / ".cache" / "images").num_examples == 11


# ---------------------------------------------------------------- links


def test_class_folders_that_are_links_are_classes(tmp_path):
    _fill(tmp_path / "real", first=100)
    _fill(tmp_path / "l" / "a")
    os.symlink(tmp_path / "real", tmp_path / "l" / "b")
    train = _load(tmp_path / "l")
    assert train.num_examples == 22 and train.class_names == {0: "a", 1: "b"}
    for k in range(22):
        record = train.source[k]
        assert record["label"] == (record["image"][0, 0, 0] >= 100)


def test_a_split_of_links_is_read(tmp_path):
    _fill(tmp_path / "x", 5)
    _fill(tmp_path / "y", 3, first=50)
    (tmp_path / "set").mkdir()
    os.symlink(tmp_path / "x", tmp_path / "set" / "train")
    os.symlink(tmp_path / "y", tmp_path / "set" / "test")
    assert _values(_load(tmp_path / "set")) == [0, 1, 2, 3, 4]
    assert _values(_load(tmp_path / "set", "test")) == [50, 51, 52]


@pytest.mark.parametrize("target", [".", "..", "../..", "b"])
def test_links_that_lead_back_end(tmp_path, target, capfd):
    root = tmp_path / "set"
    _fill(root / "a")
    _fill(root / "b", first=100)
    os.symlink((root / target).resolve(), root / "b" / "again")
    train = _load(root)
    assert train.num_examples == 22 and train.class_names == {0: "a", 1: "b"}
    assert "skipped 1 links to folders that contain them, such as b/again" in capfd.readouterr().err


def test_two_folders_that_link_to_each_other_end(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        _fill(tmp_path / name)
        os.symlink(tmp_path / other, tmp_path / name / "other")
    assert set(_labels(_load(tmp_path))) == {0, 1}


# ---------------------------------------------------------------- the split


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("TRAIN", "val"),
        ("training", "testing"),
        ("train", "validation"),
        ("train", "Valid"),
        ("train2017", "val2017"),
        ("train_images", "test_images"),
        ("training-set", "test set"),
        ("train_64x64", "valid_64x64"),
    ],
)
def test_other_spellings_of_a_split_are_the_split(tmp_path, train, test):
    _fill(tmp_path / train / "cat", 6)
    _fill(tmp_path / test / "cat", 2, first=50)
    assert _values(_load(tmp_path)) == [0, 1, 2, 3, 4, 5]
    assert _values(_load(tmp_path, "test")) == [50, 51]
    assert _load(tmp_path).class_names == {0: "cat"}


def test_test_is_preferred_to_val_and_what_is_not_read_is_counted(tmp_path, capfd):
    for k, name in enumerate(("train", "val", "test", "masks")):
        _fill(tmp_path / name, 4, first=10 * k)
    assert _values(_load(tmp_path)) == [0, 1, 2, 3]
    assert _values(_load(tmp_path, "test")) == [20, 21, 22, 23]
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1  # once, though the folder was opened twice
    assert said[0].endswith("skipped 8 images elsewhere (masks/, val/)")


def test_files_of_other_suffixes_are_counted(tmp_path, capfd):
    _fill(tmp_path)
    for name in ("a.heic", "b.HEIC", "notes.txt", ".hidden.txt", "README"):
        (tmp_path / name).write_text("")
    _load(tmp_path), _load(tmp_path, "test")
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and "skipped 4 files of other suffixes: 2 .heic, 1 " in said[0]
    with pytest.raises(UserError, match=r"has no images in .* \(it has files of other suffixes: 1 \.heic"):
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "a.heic").write_text("")
        _load(tmp_path / "x")


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        (("train", "other"), r"has train/ but no test/ \(or val/\) with images"),
        (("Val", "other"), "has Val/ but no train/ with images"),
        (("train", "Train", "test"), "has Train/ and train/, and only one of them can be its train split"),
        (("photos/train", "photos/test", "more"), r"split inside photos/.*set --config\.data\.path='.*/photos'"),
    ],
)
def test_half_a_split_and_two_are_refused(tmp_path, folders, sentence):
    for folder in folders:
        _fill(tmp_path / folder, 12)
    with pytest.raises(UserError, match=sentence):
        _load(tmp_path)


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize("wrapper", ["images", "set/images"])
def test_classes_one_folder_too_deep_are_the_classes(tmp_path, wrapper, capfd):
    for k, name in enumerate(("a", "b")):
        _fill(tmp_path / wrapper / name, first=100 * k)
    train, direct = _load(tmp_path), _load(tmp_path / wrapper)
    assert train.class_names == direct.class_names == {0: "a", 1: "b"}
    assert _labels(train) == _labels(direct)
    assert f"all images are in {wrapper}/, so its folders" in capfd.readouterr().err


def test_a_split_one_folder_too_deep_is_the_split(tmp_path):
    for part, first in (("train", 0), ("test", 50)):
        for k, name in enumerate(("a", "b")):
            _fill(tmp_path / "images" / part / "all" / name, 3, first=first + 10 * k)
    assert _values(_load(tmp_path, "test")) == [50, 51, 52, 60, 61, 62]
    assert _load(tmp_path).class_names == {0: "a", 1: "b"}


def test_one_class_alone_stays_a_class(tmp_path):
    _fill(tmp_path / "cats")
    assert _load(tmp_path).class_names == {0: "cats"}


def test_an_image_in_no_class_folder_is_why_there_are_no_labels(tmp_path):
    _fill(tmp_path / "train" / "a", 3)
    _fill(tmp_path / "test", 3)
    train = _load(tmp_path)
    assert train.class_names == {} and "label" not in train.source[0]
    data.check(train, (8, 8, 1), 256)
    with pytest.raises(UserError, match=r"has no labels \(3 images, such as test/00\.png, are not in a class folder"):
        data.check(train, (8, 8, 1), 256, classes=1)


def test_class_names_stay_with_the_parts_of_a_split(tmp_path):
    for name in ("b", "a"):
        _fill(tmp_path / name, 20)
    for split in data.SPLITS:
        dataset = _load(tmp_path, split)
        assert dataset.class_names == {0: "a", 1: "b"}
        assert dataset.identity["classes"] == ["a", "b"]
    assert data.load("digits", "train").class_names == {}
