"""Which data a run goes on with: by contents, not by names of folders, and what changed in words."""

import gzip
import os
import shutil
import struct

import numpy as np
import pytest
from etils import epath
from PIL import Image

from tests.training.runs import points
from vdm_jax import data
from vdm_jax.data import listing
from vdm_jax.errors import UserError
from vdm_jax.runtime import workdir

COUNT = 30


def _write(folder, count=COUNT, seed=0):
    rng = np.random.default_rng(seed)
    for part in ("train", "test"):
        for k in range(count):
            path = folder / part / "ab"[k % 2] / f"{k:03d}.bmp"  # all of the same size in bytes
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    return folder


def _identity(folder, split="train", name="folder"):
    return data.load(name, split, path=str(folder), shape=(8, 8, 1)).identity


@pytest.fixture
def folder(tmp_path):
    return _write(tmp_path / "cats")


def test_the_same_files_elsewhere_are_the_same_data(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "scratch" / "job_4711")
    shutil.copytree(folder, tmp_path / "other" / "images")  # within another folder
    for place in ("scratch/job_4711", "other"):
        for split in ("train", "fit", "test"):
            assert _identity(tmp_path / place, split) == _identity(folder, split)
            assert data.difference(_identity(folder, split), _identity(tmp_path / place, split)) == ""


def test_other_pictures_under_the_same_names_are_other_data(folder, tmp_path):
    other = _write(tmp_path / "again" / "cats", seed=1)
    changed = data.difference(_identity(folder), _identity(other))
    assert changed == "its contents changed, with the same file names and sizes"


def test_one_other_picture_of_a_small_folder_is_found(folder):
    before = _identity(folder)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "train" / "b" / "007.bmp")
    assert data.difference(before, _identity(folder)).startswith("its contents changed")
    Image.fromarray(np.zeros((9, 9), np.uint8)).resize((8, 8)).save(folder / "train" / "b" / "007.bmp", "PNG")
    assert data.difference(before, _identity(folder)).startswith(
        "image files with the same names have different contents ("
    )


def test_removed_added_and_renamed_files_are_counted(folder):
    before, first = _identity(folder), folder / "train" / "a" / "000.bmp"
    size = first.stat().st_size
    total = COUNT * size
    os.rename(first, folder / "train" / "a" / "zzz.bmp")
    assert data.difference(before, _identity(folder)) == (
        f"the same number of image files have different names ({total:,} → {total:,} bytes)"
    )
    os.remove(folder / "train" / "a" / "zzz.bmp")
    assert data.difference(before, _identity(folder)) == (
        f"1 image file was removed (30 → 29; {total:,} → {total - size:,} bytes)"
    )
    for k in range(3):
        shutil.copy(folder / "test" / "a" / "000.bmp", folder / "train" / "a" / f"new{k}.bmp")
    assert data.difference(before, _identity(folder)).startswith("2 image files were added (30 → 32; ")


def test_other_classes_are_named(folder):
    before = _identity(folder)
    shutil.copytree(folder / "test" / "a", folder / "test" / "aa")  # number 1 is another class now
    changed = data.difference(before, _identity(folder))
    assert changed == "its class folders are ['a', 'aa', 'b'] and were ['a', 'b']"


def test_a_resume_says_what_changed_and_the_way_out(folder, tmp_path):
    run = epath.Path(tmp_path) / "run"
    workdir.claim(run, points(), _identity(folder))
    (run / "checkpoints" / "3").mkdir(parents=True)
    workdir.check_resume(run, points(), _identity(folder))
    os.rename(folder, tmp_path / "dogs")
    workdir.check_resume(run, points(), _identity(tmp_path / "dogs"))
    os.remove(tmp_path / "dogs" / "train" / "a" / "000.bmp")
    with pytest.raises(UserError) as raised:
        workdir.check_resume(run, points(), _identity(tmp_path / "dogs"))
    for words in ("1 image file was removed (30 → 29;", "max_undecodable", "new --workdir", f"--weights={run}"):
        assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_directories_of_earlier_versions_go_on_with_as_many_images(folder):
    now = _identity(folder)
    old = {"name": "folder", "version": "folder:cats:0123456789ab train/", "examples": COUNT}
    assert data.difference(old, now) == ""
    assert data.difference(old | {"examples": COUNT + 1}, now) == "it has 30 examples and had 31"


def test_npz_files_are_the_same_under_another_name(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8)).astype(np.uint8)
    for name in ("a.npz", "b: c.npz"):
        np.savez(tmp_path / name, x=images)
    np.savez(tmp_path / "other.npz", x=255 - images)
    first, second, other = (_identity(tmp_path / n, name="npz") for n in ("a.npz", "b: c.npz", "other.npz"))
    assert first == second and data.difference(first, other) == "its contents changed"
    old = first | {"version": first["version"].replace("npz:", "npz:a.npz:")}  # as earlier versions wrote it
    assert data.difference(old, second) == "" and data.difference(old, other)


def test_other_labels_of_mnist_are_other_data(tmp_path):
    def write(name, array):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (tmp_path / name).write_bytes(gzip.compress(header + array.tobytes()))

    write("train-images-idx3-ubyte.gz", np.zeros((20, 28, 28), np.uint8))
    write("train-labels-idx1-ubyte.gz", np.arange(20, dtype=np.uint8) % 10)
    before = data.load("mnist", "train", path=str(tmp_path)).identity
    write("train-labels-idx1-ubyte.gz", np.arange(20, dtype=np.uint8) // 2)
    assert data.difference(before, data.load("mnist", "train", path=str(tmp_path)).identity) == "its labels changed"


def test_of_a_large_folder_a_sample_is_read_and_all_sizes(folder, monkeypatch):
    monkeypatch.setattr(listing, "SAMPLED", 3)
    before = _identity(folder)
    for path in (folder / "train" / "b").iterdir():
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    assert _identity(folder) != before  # the last of the sample
