"""TFDS data sets: read from array_record without TensorFlow and without a network, or explained."""

import subprocess
import sys

import numpy as np
import pytest

from vdm_jax import data
from vdm_jax.errors import UserError


def random_images(count: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def _cifar(seed: int = 0):
    return {
        "train": (random_images(20, (32, 32, 3), seed), np.arange(20) % 10),
        "test": (random_images(5, (32, 32, 3), seed + 1), np.arange(5)),
    }


def test_images_and_labels_are_those_written(prepare):
    splits = _cifar()
    root = prepare("cifar10", "3.0.2", splits)
    for split, (images, labels) in splits.items():
        loaded = data.load("cifar10", split, path=str(root))
        assert loaded.version == "tfds:cifar10:3.0.2"
        assert loaded.num_examples == len(images)
        data.check(loaded, (32, 32, 3), 256)
        for index in range(len(images)):
            record = loaded.source[index]
            np.testing.assert_array_equal(record["image"], images[index])
            assert record["label"] == labels[index]


def test_tuning_images_are_the_last_tenth(prepare):
    splits = _cifar()
    root = str(prepare("cifar10", "3.0.2", splits))
    tune, fit = (data.load("cifar10", split, path=root) for split in ("tune", "fit"))
    assert (fit.num_examples, tune.num_examples) == (18, 2)
    np.testing.assert_array_equal(tune.source[1]["image"], splits["train"][0][19])
    np.testing.assert_array_equal(fit.source[17]["image"], splits["train"][0][17])


def test_the_newest_version_is_read_and_one_can_be_named(prepare, monkeypatch):
    root = prepare("cifar10", "3.0.2", _cifar(0))
    prepare("cifar10", "3.0.10", _cifar(7))
    assert data.load("cifar10", "test", path=str(root)).version == "tfds:cifar10:3.0.10"
    old = data.load("cifar10", "test", path=str(root / "cifar10" / "3.0.2"))
    assert old.version == "tfds:cifar10:3.0.2"
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    assert data.load("cifar10", "test").version == "tfds:cifar10:3.0.10"


@pytest.mark.slow
def test_reading_needs_neither_tensorflow_nor_a_network(prepare, tmp_path):
    """TensorFlow is a decoy on the path that says when it is imported, as if it were installed."""
    root = prepare("cifar10", "3.0.2", _cifar())
    decoy = tmp_path / "decoys" / "tensorflow"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text("raise AssertionError('TensorFlow was imported')")
    program = f"""
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("the network was used")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
sys.path.insert(0, {str(decoy.parent)!r})
from vdm_jax import data
loaded = data.load("cifar10", "train", path={str(root)!r})
batch = next(data.train_iterator(loaded, seed=0, batch_size=4))
assert "tensorflow" not in sys.modules
assert "tensorflow_datasets" in sys.modules
print(batch["image"].shape, batch["label"].dtype)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "(4, 32, 32, 3) int32"


@pytest.mark.slow
def test_importing_the_room_and_loading_digits_does_not_import_tfds():
    program = (
        "import sys; from vdm_jax import data; data.load('digits', 'train'); "
        "assert not {'tensorflow', 'tensorflow_datasets'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_is_not_prepared_is_answered_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"pip install 'vdm_jax\[prepare\]'") as error:
        data.load("cifar10", "train")
    assert "tfds.builder('cifar10', file_format='array_record').download_and_prepare()" in str(error.value)
    with pytest.raises(UserError, match=r"tfds\.builder\('imagenet_resized/64x64', file_format"):
        data.load("imagenet64_resized", "train")
    with pytest.raises(UserError, match=f"data_dir='{tmp_path}'"):
        data.load("cifar10", "train", path=str(tmp_path))


def test_tfrecord_folders_are_named_as_such(prepare):
    root = prepare("cifar10", "3.0.2", _cifar(), file_format="tfrecord")
    with pytest.raises(UserError, match="prepared as tfrecord, which only TensorFlow reads"):
        data.load("cifar10", "train", path=str(root))


@pytest.mark.parametrize("damage", ["truncated", "missing", "info"])
def test_damaged_folders_are_user_errors(prepare, damage):
    root = prepare("cifar10", "3.0.2", _cifar())
    folder = root / "cifar10" / "3.0.2"
    shard = folder / "cifar10-train.array_record-00000-of-00001"
    if damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:100])
    elif damage == "missing":
        shard.unlink()
    else:
        (folder / "dataset_info.json").write_text('{"name": "cifar10"')
    with pytest.raises(UserError, match="prepare it again"):
        data.load("cifar10", "train", path=str(root))


def test_new_imagenet_checks_its_count(prepare):
    splits = {"validation": (random_images(3, (32, 32, 3)), np.arange(3))}
    root = prepare("imagenet_resized/32x32", "0.1.0", splits)
    with pytest.raises(
        UserError, match=r"test split of imagenet32_resized \(NEW\) has 50,000 images but data\.path has 3"
    ):
        data.load("imagenet32_resized", "test", path=str(root))


def test_new_imagenet_is_never_taken_for_old(prepare):
    splits = {"validation": (random_images(3, (32, 32, 3)), np.arange(3))}
    root = prepare("imagenet_resized/32x32", "0.1.0", splits)
    for path in (root, root / "imagenet_resized/32x32/0.1.0"):
        with pytest.raises(UserError, match=r"valid_32x32\.tar"):
            data.load("imagenet32", "test", path=str(path))
