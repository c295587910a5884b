"""Records that can't be decoded: in training another stands at their place and is counted; evaluation stops."""

import io
import itertools
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from vdm_jax import data
from vdm_jax.data import imagenet, replace, rows
from vdm_jax.errors import Undecodable, UserError

COUNT = 40


def _images(count: int = COUNT, size: int = 6) -> np.ndarray:
    """Image i is filled with i."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1), (count, size, size, 3)).copy()


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _other_size(content: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(content)).resize((5, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def _sixteen_bits(content: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 6), 40_000, np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def _flipped(content: bytes) -> bytes:
    """One bit of the pixels is wrong: PNG's checksum tells."""
    at = content.index(b"IDAT") + 6
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


DAMAGE = {"cut": _cut, "empty": lambda content: b"", "other size": _other_size, "16 bits": _sixteen_bits}
DAMAGE |= {"a bit": _flipped, "removed": lambda content: None}
BAD = (3, 11, 12)


@pytest.fixture
def folder(tmp_path, png):
    """A folder of images, split by hand so that every one of them is for training."""
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for index, image in enumerate(_images()):
            (tmp_path / part / f"{index:03d}.png").write_bytes(png(image))
    return tmp_path


def _damage(dataset: data.Dataset, folder, kind: str, part: str = "train"):
    """Break the files of BAD after the data set was opened, as a disk does."""
    for index in BAD:
        path = folder / part / f"{index:03d}.png"
        content = DAMAGE[kind](path.read_bytes())
        path.unlink() if content is None else path.write_bytes(content)


def _stream(dataset, count, index=0, processes=1, start=0, **options):
    iterator = data.train_iterator(
        dataset, seed=7, batch_size=20, process_index=index, process_count=processes, **options
    )
    if start:
        iterator.set_state({"next_index": start})
    return list(itertools.islice(iterator, count))


def _joined(batches):
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.parametrize("kind", DAMAGE)
def test_only_the_places_of_bad_records_change_and_are_counted(folder, kind, capfd):
    whole = shutil.copytree(folder, folder / "whole")
    before = _joined(_stream(data.load("folder", "train", path=str(whole)), 6))
    dataset = data.load("folder", "train", path=str(folder))
    assert before["replaced"].dtype == np.float32 and not before["replaced"].any()
    _damage(dataset, folder, kind)
    after = _joined(_stream(dataset, 6))
    bad = np.isin(before["image"][:, 0, 0, 0], BAD)
    assert bad.sum() == 3 * len(BAD)  # three epochs
    np.testing.assert_array_equal(after["replaced"], bad.astype(np.float32))
    np.testing.assert_array_equal(after["image"][~bad], before["image"][~bad])
    stands = after["image"][bad][:, 0, 0, 0]
    assert not np.isin(stands, BAD).any() and len(set(stands)) > 3  # not one image again and again
    said = [line for line in capfd.readouterr().err.splitlines() if "replaced by another" in line]
    assert len(said) == len(BAD)  # once each, though each came three times
    for index in BAD:
        assert sum(f"{index:03d}.png" in line for line in said) == 1


def test_replacements_are_the_same_after_a_resume_and_on_two_processes(folder):
    dataset = data.load("folder", "train", path=str(folder))
    _damage(dataset, folder, "cut")
    options = {"augment": ("flip", "rot90", "channels")}
    straight = _stream(dataset, 6, **options)
    resumed = _stream(dataset, 3, start=3, **options)
    halves = [_stream(dataset, 6, index, 2, **options) for index in range(2)]
    joined = [_joined(parts) for parts in zip(*halves, strict=True)]
    for left, right in [*zip(straight[3:], resumed, strict=True), *zip(straight, joined, strict=True)]:
        assert left.keys() == right.keys() >= {"replaced"}
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])
    assert sum(batch["replaced"].sum() for batch in straight) == 3 * len(BAD)


def test_every_training_batch_has_the_field(folder):
    for name in ("digits", "swirl"):
        batch = _stream(data.load(name, "train"), 1)[0]
        np.testing.assert_array_equal(batch["replaced"], np.zeros(20, np.float32))


@pytest.mark.parametrize(("kept", "sentence"), [(0, r"100 records in a row can't be decoded, such as this: "), (1, "")])
def test_when_nothing_can_be_decoded_it_says_so(folder, kept, sentence, monkeypatch):
    monkeypatch.setattr(rows, "REMEMBERED_BYTES", kept * rows.REMEMBERED_BYTES)
    dataset = data.load("folder", "train", path=str(folder))
    for index in range(COUNT):
        (folder / "train" / f"{index:03d}.png").write_bytes(b"")
    with pytest.raises(UserError, match=sentence + r".*\.png is not a readable image"):
        _stream(dataset, 1)


def test_after_a_few_bad_records_the_rest_is_only_counted(folder, capfd, monkeypatch):
    monkeypatch.setattr(replace, "NAMED", 2)
    dataset = data.load("folder", "train", path=str(folder))
    _damage(dataset, folder, "cut")
    _stream(dataset, 6)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 3 and said[-1].endswith("are replaced and only counted")


def test_evaluation_stops_at_a_bad_record_and_names_it(folder):
    dataset = data.load("folder", "test", path=str(folder))
    _damage(dataset, folder, "cut", "test")
    with pytest.raises(Undecodable, match=r"test/003\.png is not a readable image"):
        list(data.eval_batches(dataset, batch_size=16))
    # those before it are fine
    assert next(data.eval_batches(dataset, batch_size=3, examples=3))["mask"].sum() == 3


def test_check_refuses_one_bad_image_where_every_one_counts(folder):
    _damage(None, folder, "cut", "test")
    _damage(None, folder, "cut")
    test, train = (data.load("folder", part, path=str(folder)) for part in ("test", "train"))
    data.check(train, (6, 6, 3), 256)
    with pytest.raises(UserError, match=r"\.png is not a readable image"):
        for start in range(COUNT):  # the probes are spread over the split: one of these hits
            subset = test._replace(source=data.datasets.take(test.source, np.arange(start, COUNT)))
            data.check(subset, (6, 6, 3), 256, every=True)


@pytest.mark.parametrize("bad", [(0,), range(15)])
def test_the_first_record_may_be_a_bad_one(folder, bad):
    for index in bad:
        (folder / "test" / f"{index:03d}.png").write_bytes(b"")
    dataset = data.load("folder", "test", path=str(folder))
    assert dataset.shape == (6, 6, 3)


def test_an_image_of_an_archive(tmp_path, png, monkeypatch):
    monkeypatch.setattr(imagenet, "OLD_COUNTS", {"train": COUNT, "test": COUNT})
    path = tmp_path / "train_32x32.tar"
    with tarfile.open(path, "w") as tar:
        for index, image in enumerate(_images(size=32)):
            member, content = tarfile.TarInfo(f"train_32x32/{index:03d}.png"), png(image)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    dataset = data.load("imagenet32", "train", path=str(tmp_path))
    before = _joined(_stream(dataset, 2))
    archive = dataset.source.source
    content = bytearray(path.read_bytes())
    for index in BAD:
        content[archive.offsets[index] + 40] ^= 255
    path.write_bytes(content)
    after = _joined(_stream(dataset, 2))
    np.testing.assert_array_equal(after["replaced"], np.isin(before["image"][:, 0, 0, 0], BAD))


@pytest.mark.parametrize("damage", ["bytes", "pixels", "shape"])
def test_a_record_of_array_record(prepare, damage):
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3)).astype(np.uint8)
    root = prepare("cifar10", "3.0.2", {"train": (images, np.arange(COUNT)), "test": (images, np.arange(COUNT))})
    dataset = data.load("cifar10", "train", path=str(root))
    before = _joined(_stream(dataset, 2))
    shard = root / "cifar10" / "3.0.2" / "cifar10-train.array_record-00000-of-00001"
    if damage == "bytes":
        content = bytearray(shard.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 8] = bytes(8)
        shard.write_bytes(content)
        dataset = data.load("cifar10", "train", path=str(root))
    else:
        real = type(dataset.source.records).__getitem__

        def broken(self, index):
            record = real(self, index)
            if index in BAD and damage == "pixels":
                raise OSError("image file is truncated")
            return {**record, "image": record["image"][:-1]} if index in BAD else record

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(dataset.source.records), "__getitem__", broken)
            after = _joined(_stream(dataset, 2))
        np.testing.assert_array_equal(after["replaced"], np.isin(before["label"], BAD))
        return
    after = _joined(_stream(dataset, 2))
    bad = after["replaced"] > 0
    assert 1 <= bad.sum() <= 2  # eight bytes lie in one record, or at the edge of two
    np.testing.assert_array_equal(after["label"][~bad], before["label"][~bad])
    np.testing.assert_array_equal(after["image"][~bad], before["image"][~bad])
    with pytest.raises(UserError, match=r"record \d+ of .*cifar10.* can't be decoded"):
        list(data.eval_batches(dataset, batch_size=20))
