"""Images on disk: folders, the original ImageNet archives and idx files."""

import gzip
import io
import os
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from vdm_jax import data
from vdm_jax.data import imagenet
from vdm_jax.errors import UserError


def _images(count: int, shape: tuple[int, ...] = (6, 6, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def _write_folder(folder, images, png, name="{:03d}.png"):
    for index, image in enumerate(images):
        path = folder / name.format(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))


def _stack(dataset: data.Dataset) -> np.ndarray:
    return np.stack([dataset.source[index]["image"] for index in range(dataset.num_examples)])


# ---------------------------------------------------------------- folders


def test_folder_without_a_split_is_cut_90_10_by_seed(tmp_path, png):
    images = _images(30)
    _write_folder(tmp_path / "cats", images, png, "{0:03d}.png")
    (tmp_path / "cats" / "notes.txt").write_text("not an image")
    (tmp_path / "cats" / "._000.png").write_text("not an image either")
    order = np.random.default_rng(0).permutation(30)
    train, tune, test = (data.load("folder", split, path=str(tmp_path / "cats")) for split in ("train", "tune", "test"))
    np.testing.assert_array_equal(_stack(train), images[order[:27]])
    np.testing.assert_array_equal(_stack(tune), images[order[25:27]])
    np.testing.assert_array_equal(_stack(test), images[order[27:]])
    assert train.version.startswith("folder:cats:")
    assert train.version.endswith("split 90/10 seed 0")
    data.check(train, (6, 6, 3), 256)


def test_folder_with_train_and_test_keeps_them(tmp_path, png):
    train_images, test_images = _images(20), _images(4, seed=1)
    _write_folder(tmp_path / "train", train_images, png, "class{0:03d}/image.png")
    _write_folder(tmp_path / "test", test_images, png)
    test = data.load("folder", "test", path=str(tmp_path))
    np.testing.assert_array_equal(_stack(test), test_images)
    train = data.load("folder", "train", path=str(tmp_path))
    np.testing.assert_array_equal(_stack(train), train_images[np.random.default_rng(0).permutation(20)])
    (tmp_path / "test").rename(tmp_path / "other")
    with pytest.raises(UserError, match="has train/ but no test/"):
        data.load("folder", "train", path=str(tmp_path))


def test_labels_of_files_are_checked_whole(tmp_path, png):
    """One image of a class that no config names, among more than are opened for a look."""
    for index, image in enumerate(_images(40)):
        _write_folder(tmp_path / ("b" if index == 33 else "a"), [image], png, f"{index:02d}.png")
    train = data.load("folder", "train", path=str(tmp_path))
    with pytest.raises(UserError, match=r"allows labels 0 to 0 but .* has 1"):
        data.check(train, (6, 6, 3), 256, classes=1)


def test_subfolders_are_classes_numbered_alike_in_both_parts(tmp_path, png):
    train_images, test_images = _images(6), _images(2, seed=1)
    for index, image in enumerate(train_images):
        _write_folder(tmp_path / "train" / ("dog", "cat", "emu")[index % 3], [image], png, f"{index}.png")
    for name, image in zip(("emu", "fox"), test_images, strict=True):
        _write_folder(tmp_path / "test" / name, [image], png)
    train, test = (data.load("folder", split, path=str(tmp_path)) for split in ("train", "test"))
    whose = {tuple(image.ravel()): (1, 0, 2)[index % 3] for index, image in enumerate(train_images)}
    records = [train.source[index] for index in range(6)]
    assert [whose[tuple(record["image"].ravel())] for record in records] == [record["label"] for record in records]
    assert [test.source[index]["label"] for index in range(2)] == [2, 3]
    data.check(train, (6, 6, 3), 256, classes=3)
    with pytest.raises(UserError, match=r"allows labels 0 to 2 but .* has 3"):
        data.check(test, (6, 6, 3), 256, classes=3)
    (tmp_path / "train" / "ant").mkdir()  # no images, no class
    assert data.load("folder", "test", path=str(tmp_path)).source[1]["label"] == 3
    (tmp_path / "train" / "stray.png").write_bytes(png(train_images[0]))
    assert "label" not in data.load("folder", "train", path=str(tmp_path)).source[0]


def test_folder_is_gray_or_rgb_by_shape(tmp_path, png):
    gray = _images(20, (6, 6, 1))
    _write_folder(tmp_path / "x", gray, png)
    order = np.random.default_rng(0).permutation(20)[18:]
    as_gray = data.load("folder", "test", path=str(tmp_path / "x"), shape=(6, 6, 1))
    np.testing.assert_array_equal(_stack(as_gray), gray[order])
    as_rgb = data.load("folder", "test", path=str(tmp_path / "x"), shape=(6, 6, 3))
    np.testing.assert_array_equal(_stack(as_rgb), np.repeat(gray[order], 3, axis=-1))
    with pytest.raises(UserError, match=r"data\.shape=\(6, 6, 4\) can't be read from image files"):
        data.load("folder", "test", path=str(tmp_path / "x"), shape=(6, 6, 4))


def test_the_version_of_a_folder_follows_its_files(tmp_path, png):
    _write_folder(tmp_path / "x", _images(20), png)
    before = data.load("folder", "train", path=str(tmp_path / "x")).version
    _write_folder(tmp_path / "x", _images(21), png)
    assert data.load("folder", "train", path=str(tmp_path / "x")).version != before


def test_images_of_another_size_are_found_by_check_or_named_when_read(tmp_path, png):
    _write_folder(tmp_path / "x", _images(20), png)
    with pytest.raises(UserError, match=r"data\.shape=\(8, 8, 3\) but .*\(6, 6, 3\)"):
        data.check(data.load("folder", "test", path=str(tmp_path / "x")), (8, 8, 3), 256)
    for index in range(10):
        (tmp_path / "x" / f"{index:03d}.png").write_bytes(png(_images(1, (5, 7, 3))[0]))
    with pytest.raises(UserError, match=r"have 2 sizes, 5 × 7 to 6 × 6; set --config\.data\.resize='crop'"):
        train = data.load("folder", "train", path=str(tmp_path / "x"))
        data.check(train, train.shape, 256)


def _file(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "cut":
        Image.fromarray(_images(1, (64, 64, 3))[0]).save(buffer, "PNG")
        return buffer.getvalue()[:-4000]
    if kind == "16 bits":
        Image.fromarray(np.full((6, 6), 40_000, np.uint16)).save(buffer, "PNG")
    if kind == "transparent":
        Image.fromarray(np.full((6, 6, 4), 100, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue() or b"no image"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", r"000\.png is not a readable image"),
        ("text", r"000\.png is not a readable image"),
        ("16 bits", r"000\.png has Pillow mode 'I;16'"),
        ("transparent", r"000\.png has transparent pixels"),
    ],
)
def test_images_that_cannot_be_read_exactly_are_named(tmp_path, png, kind, message):
    for part in ("train", "test"):
        _write_folder(tmp_path / part, _images(3), png)
    (tmp_path / "test" / "000.png").write_bytes(_file(kind))
    test = data.load("folder", "test", path=str(tmp_path))
    with pytest.raises(UserError, match=message):
        data.check(test, (6, 6, 3), 256, every=True)
    with pytest.raises(UserError, match=message):
        list(data.eval_batches(test, batch_size=3))
    (tmp_path / "test" / "001.png").unlink()
    (tmp_path / "test" / "002.png").unlink()
    with pytest.raises(UserError, match=message):  # nothing else is there to go by
        data.load("folder", "test", path=str(tmp_path))


def test_opaque_palette_and_alpha_files_are_exact(tmp_path, png):
    for part in ("train", "test"):
        _write_folder(tmp_path / part, _images(3), png)
    image = Image.fromarray(_images(1)[0])
    image.putalpha(255)
    image.save(tmp_path / "test" / "000.png")
    Image.fromarray(_images(2)[1]).quantize(64).save(tmp_path / "test" / "001.png")  # 36 pixels: lossless
    stacked = _stack(data.load("folder", "test", path=str(tmp_path)))
    np.testing.assert_array_equal(stacked[0], _images(1)[0])
    palette = Image.open(tmp_path / "test" / "001.png")
    assert palette.mode == "P"
    np.testing.assert_array_equal(stacked[1], np.asarray(palette.convert("RGB")))


def test_an_empty_folder_and_too_few_images_are_user_errors(tmp_path, png):
    with pytest.raises(UserError, match="has no images in"):
        data.load("folder", "train", path=str(tmp_path))
    _write_folder(tmp_path, _images(9), png)
    with pytest.raises(UserError, match="9 images, too few to hold out a tenth"):
        data.load("folder", "test", path=str(tmp_path))


# ---------------------------------------------------------------- the original ImageNet archives


def _write_tar(path, images, png, mode="w"):
    """Members in reverse, as archives need not be sorted, with the folder entry and a stray file."""
    with tarfile.open(path, mode) as tar:
        folder = tarfile.TarInfo(path.name.split(".")[0])
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        files = {f"{folder.name}/{index:05d}.png": png(image) for index, image in enumerate(images)}
        for name in [*sorted(files, reverse=True), f"{folder.name}/._00000.png"]:
            member = tarfile.TarInfo(name)
            member.size = len(files.get(name, b"junk"))
            tar.addfile(member, io.BytesIO(files.get(name, b"junk")))


@pytest.fixture
def few(monkeypatch):
    """OLD ImageNet with 12 training and 5 validation images."""
    monkeypatch.setattr(imagenet, "OLD_COUNTS", {"train": 12, "test": 5})


def test_archives_give_back_the_pixels_in_order_of_their_names(tmp_path, png, few):
    train_images, valid_images = _images(12, (32, 32, 3)), _images(5, (32, 32, 3), seed=1)
    _write_tar(tmp_path / "train_32x32.tar", train_images, png)
    _write_tar(tmp_path / "valid_32x32.tar", valid_images, png)
    test = data.load("imagenet32", "test", path=str(tmp_path))
    assert test.version == "OLD downsampled_imagenet 32x32 (van den Oord 2016), valid_32x32.tar"
    data.check(test, (32, 32, 3), 256)
    np.testing.assert_array_equal(_stack(test), valid_images)
    assert "label" not in test.source[0]
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(_stack(data.load("imagenet32", "train", path=str(tmp_path))), train_images[order])
    np.testing.assert_array_equal(_stack(data.load("imagenet32", "tune", path=str(tmp_path))), train_images[order[11:]])


def test_unpacked_archives_are_the_same_data_set(tmp_path, png, few):
    (tmp_path / "tars").mkdir()
    for name, count in (("train_64x64", 12), ("valid_64x64", 5)):
        _write_tar(tmp_path / "tars" / f"{name}.tar", _images(count, (64, 64, 3)), png)
        with tarfile.open(tmp_path / "tars" / f"{name}.tar") as tar:
            tar.extractall(tmp_path / "unpacked", filter="data")
    for split in ("train", "test"):
        packed, unpacked = (data.load("imagenet64", split, path=str(tmp_path / form)) for form in ("tars", "unpacked"))
        np.testing.assert_array_equal(_stack(packed), _stack(unpacked))


def test_a_tfds_folder_of_the_old_version_is_read(prepare, few):
    images = _images(5, (32, 32, 3))
    root = prepare("downsampled_imagenet/32x32", "2.0.0", {"validation": (images, None)})
    test = data.load("imagenet32", "test", path=str(root))
    np.testing.assert_array_equal(_stack(test), images)
    assert test.version.endswith("tfds:downsampled_imagenet/32x32:2.0.0")


def test_old_imagenet_checks_its_count(tmp_path, png):
    assert imagenet.OLD_COUNTS == {"train": 1_281_149, "test": 49_999}
    assert imagenet.NEW_COUNTS == {"train": 1_281_167, "test": 50_000}
    _write_tar(tmp_path / "valid_32x32.tar", _images(6, (32, 32, 3)), png)
    with pytest.raises(UserError, match=r"test split of imagenet32 \(OLD\) has 49,999 images but data.path has 6"):
        data.load("imagenet32", "test", path=str(tmp_path))


def test_an_archive_is_read_through_the_pipeline_by_threads(tmp_path, png, few):
    images = _images(5, (32, 32, 3))
    _write_tar(tmp_path / "valid_32x32.tar", images, png)
    (batch,) = data.eval_batches(data.load("imagenet32", "test", path=str(tmp_path)), batch_size=5)
    np.testing.assert_array_equal(batch["image"], images)


@pytest.mark.parametrize("damage", ["gz", "text", "no images"])
def test_damaged_archives_are_user_errors(tmp_path, png, few, damage):
    path = tmp_path / "valid_32x32.tar"
    _write_tar(path, _images(0 if damage == "no images" else 5, (32, 32, 3)), png)
    if damage == "gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
    if damage == "text":
        path.write_bytes(b"<html>404</html>" * 100)
    with pytest.raises(UserError, match=r"not a complete uncompressed tar archive|holds no images"):
        data.load("imagenet32", "test", path=str(tmp_path))


def test_a_truncated_archive_is_a_user_error(tmp_path, png, few):
    path = tmp_path / "valid_32x32.tar"
    _write_tar(path, _images(5, (32, 32, 3)), png)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(UserError, match=r"not a whole uncompressed tar|has 5 images but"):
        data.load("imagenet32", "test", path=str(tmp_path))


def test_missing_imagenet_says_what_to_fetch_and_what_it_is_not(tmp_path):
    with pytest.raises(UserError) as error:
        data.load("imagenet64", "train", path=str(tmp_path))
    for words in ("train_64x64.tar", "valid_64x64.tar", "--config.data.path", "imagenet64_resized"):
        assert words in str(error.value)


# ---------------------------------------------------------------- idx files


def _idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _write_idx(folder, suffix="", dot="-"):
    pack = gzip.compress if suffix else bytes
    images = {"train": _images(20, (28, 28)), "t10k": _images(6, (28, 28), seed=1)}
    for part, array in images.items():
        labels = (np.arange(len(array)) % 10).astype(np.uint8)
        (folder / f"{part}-images{dot}idx3-ubyte{suffix}").write_bytes(pack(_idx(array)))
        (folder / f"{part}-labels{dot}idx1-ubyte{suffix}").write_bytes(pack(_idx(labels)))
    return images["train"], images["t10k"]


@pytest.mark.parametrize(("suffix", "dot"), [("", "-"), (".gz", "-"), ("", ".")])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_give_back_images_and_labels(tmp_path, name, suffix, dot):
    train_images, test_images = _write_idx(tmp_path, suffix, dot)
    train, test = (data.load(name, split, path=str(tmp_path)) for split in ("train", "test"))
    np.testing.assert_array_equal(train.source.images[..., 0], train_images)
    np.testing.assert_array_equal(test.source.images[..., 0], test_images)
    np.testing.assert_array_equal(train.source.labels, np.arange(20) % 10)
    assert train.version.startswith(f"idx:train-images{dot}idx3-ubyte{suffix}:")
    assert [data.load(name, split, path=str(tmp_path)).num_examples for split in ("fit", "tune")] == [18, 2]
    data.check(train, (28, 28, 1), 256)


@pytest.mark.parametrize("damage", ["cut", "cut gz", "header", "not gz"])
def test_damaged_idx_files_are_user_errors(tmp_path, damage):
    _write_idx(tmp_path, ".gz" if "gz" in damage else "")
    path = tmp_path / ("train-images-idx3-ubyte" + (".gz" if "gz" in damage else ""))
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-9], "cut gz": whole[:-99], "header": whole[:5], "not gz": b"404"}[damage])
    with pytest.raises(UserError, match=r"is not a complete idx file .*download it again"):
        data.load("mnist", "train", path=str(tmp_path))


def test_labels_of_another_file_are_refused(tmp_path):
    _write_idx(tmp_path)
    os.replace(tmp_path / "t10k-labels-idx1-ubyte", tmp_path / "train-labels-idx1-ubyte")
    train = data.load("mnist", "train", path=str(tmp_path))
    data.check(train, (28, 28, 1), 256)  # a model without labels does not need them
    with pytest.raises(UserError, match=r"num_classes=10 but .* has no labels .*6 labels for 20 images"):
        data.check(train, (28, 28, 1), 256, classes=10)


def test_missing_idx_files_say_where_to_put_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match="dataset-fashion-mnist") as error:
        data.load("fashion_mnist", "train", path=str(tmp_path))
    assert "train-images-idx3-ubyte.gz" in str(error.value)
    assert "tfds.builder('fashion_mnist'" in str(error.value)
