"""Batches: which examples, in which order, how augmented, and the same again after a resume or on more processes."""

import itertools

import numpy as np
import pytest

from vdm_jax import data
from vdm_jax.data import pipeline, rows
from vdm_jax.data.augment import augment, draw
from vdm_jax.errors import Undecodable, UserError


@pytest.fixture
def counted(tmp_path) -> data.Dataset:
    """100 images 4x4x3, no two alike: image i is filled with i, but for a mark that shows every augmentation."""
    images = np.broadcast_to(np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1), (100, 4, 4, 3)).copy()
    images[:, 0, 1] += np.array([100, 110, 120], np.uint8)
    np.savez(tmp_path / "counted.npz", x_train=images, y_train=np.arange(100), x_test=images[:10])
    return data.load("npz", "train", path=str(tmp_path / "counted.npz"))


def _take(iterator, count):
    return list(itertools.islice(iterator, count))


def _identities(batches) -> list[int]:
    """Which examples these are, in order, when nothing is augmented."""
    return np.concatenate([batch["image"][:, 3, 2, 0] for batch in batches]).tolist()


def _assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def test_an_epoch_has_every_example_once_in_a_new_order(counted):
    iterator = data.train_iterator(counted, seed=1, batch_size=20)
    epochs = [_identities(_take(iterator, 5)) for _ in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(100))
    assert epochs[0] != list(range(100))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_batch_may_span_epochs_and_drops_nothing(counted):
    iterator = data.train_iterator(counted, seed=1, batch_size=30)
    seen = _identities(_take(iterator, 10))
    assert sorted(seen) == sorted(3 * list(range(100)))


def test_labels_stay_with_their_images(counted):
    for batch in _take(data.train_iterator(counted, seed=2, batch_size=16, augment=("flip", "rot90")), 10):
        assert batch["label"].dtype == np.int32
        np.testing.assert_array_equal(batch["label"], batch["image"].min(axis=(1, 2, 3)))


def test_the_stream_is_a_function_of_the_seed(counted):
    def batches(seed, threads=1):
        iterator = data.train_iterator(counted, seed=seed, batch_size=10, augment=("flip",), num_threads=threads)
        return _take(iterator, 25)

    _assert_same(batches(3), batches(3, threads=4))
    assert _identities(batches(3)) != _identities(batches(4))


def test_augmentations_differ_between_epochs_and_bits_tell_the_truth(counted):
    iterator = data.train_iterator(counted, seed=0, batch_size=100, augment=("flip", "rot90", "channels"))
    bits = []
    for batch in _take(iterator, 20):
        order = np.argsort(batch["label"])
        bits.append(batch["augmented"][order])
        for image, label, bit in zip(batch["image"], batch["label"], batch["augmented"], strict=True):
            if bit == 0:
                np.testing.assert_array_equal(image, counted.source[int(label)]["image"])
    bits = np.asarray(bits)
    assert not np.array_equal(bits[0], bits[1])
    assert abs(bits.mean() - 7 / 8) < 4 * np.sqrt(7 / 64 / bits.size)


def test_without_augmentation_images_are_untouched_and_the_bit_is_zero(counted):
    for batch in _take(data.train_iterator(counted, seed=0, batch_size=50), 4):
        np.testing.assert_array_equal(batch["augmented"], np.zeros(50, np.float32))
        np.testing.assert_array_equal(batch["image"], counted.source.images[batch["label"]])


@pytest.mark.parametrize("stop", [0, 3, 7, 13])
def test_resumed_equals_straight_across_epochs(counted, stop):
    def start():
        return data.train_iterator(counted, seed=9, batch_size=30, augment=("rot90", "channels"))

    straight = _take(start(), 20)
    first = start()
    head = _take(first, stop)
    state = first.get_state()
    assert state == {"next_index": stop}
    resumed = start()
    resumed.set_state(state)
    _assert_same(straight, head + _take(resumed, 20 - stop))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_make_the_batches_of_one(counted, processes):
    def batches(index, count):
        return _take(
            data.train_iterator(
                counted,
                seed=5,
                batch_size=12,
                augment=("flip", "rot90", "channels"),
                process_index=index,
                process_count=count,
            ),
            30,
        )

    shares = [batches(index, processes) for index in range(processes)]
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    _assert_same(batches(0, 1), joined)


def test_a_job_of_one_process_resumes_on_two(counted):
    def start(index, count):
        return data.train_iterator(counted, seed=5, batch_size=12, process_index=index, process_count=count)

    one = start(0, 1)
    _take(one, 11)
    state, expected = one.get_state(), next(one)
    halves = []
    for index in range(2):
        share = start(index, 2)
        share.set_state(state)
        halves.append(next(share)["label"])
    np.testing.assert_array_equal(np.concatenate(halves), expected["label"])


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_sees_each_example_once_in_order(processes):
    test = data.load("digits", "test")
    shares = [
        list(data.eval_batches(test, batch_size=64, process_index=index, process_count=processes))
        for index in range(processes)
    ]
    assert {len(share) for share in shares} == {5}  # ceil(297 / 64) on every process
    joined = {
        name: np.concatenate([part[name] for parts in zip(*shares, strict=True) for part in parts])
        for name in shares[0][0]
    }
    np.testing.assert_array_equal(joined["index"], np.arange(320))
    np.testing.assert_array_equal(joined["mask"], (np.arange(320) < 297).astype(np.float32))
    np.testing.assert_array_equal(joined["image"][:297], test.source.images)
    np.testing.assert_array_equal(joined["label"][:297], test.source.labels)
    np.testing.assert_array_equal(joined["image"][297:], np.repeat(test.source.images[-1:], 23, axis=0))
    np.testing.assert_array_equal(joined["augmented"], np.zeros(320, np.float32))
    assert {name: joined[name].dtype for name in ("mask", "index")} == {"mask": np.float32, "index": np.int32}


def test_evaluation_of_a_split_smaller_than_the_batch_and_of_whole_batches(counted):
    (batch,) = data.eval_batches(counted, batch_size=128)
    assert batch["mask"].sum() == 100
    whole = list(data.eval_batches(counted, batch_size=50))
    assert [batch["mask"].sum() for batch in whole] == [50, 50]


def test_augment_in_the_pipeline_is_the_function(counted):
    """Some draw of `augment` explains every image: nothing else happens to them."""
    kinds = ("flip", "rot90")
    (batch,) = _take(data.train_iterator(counted, seed=0, batch_size=20, augment=kinds), 1)
    for image, label in zip(batch["image"], batch["label"], strict=True):
        originals = np.repeat(counted.source[int(label)]["image"][None], 200, axis=0)
        orbit = augment(originals, draw(np.random.default_rng(0), 200, kinds, 3))
        assert image.tobytes() in {one.tobytes() for one in orbit}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 101}, r"data\.batch_size=101 is larger than the train split of npz, which has 100"),
        ({"batch_size": 10, "process_count": 4}, r"data\.batch_size=10 must .* divisible by the 4 processes; try 8"),
        ({"batch_size": 0}, r"data\.batch_size=0 must be positive"),
        ({"batch_size": 10, "augment": ("rotate",)}, r"data\.augment has 'rotate'.*'rot90'"),
        ({"batch_size": 10, "seed": -1}, r"training\.seed=-1"),
    ],
)
def test_settings_that_cannot_work_are_named(counted, settings, message):
    with pytest.raises(UserError, match=message):
        data.train_iterator(counted, **({"seed": 0} | settings))


class Slow:
    """Records that say how often each was read; some can't be decoded."""

    def __init__(self, images: np.ndarray, labels: np.ndarray | None, bad: tuple[int, ...] = ()):
        self.images, self.labels, self.bad, self.reads = images, labels, bad, np.zeros(len(images), int)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        self.reads[index] += 1
        if index in self.bad:
            raise Undecodable(f"record {index}")
        record = {"image": self.images[index]}
        return record if self.labels is None else record | {"label": int(self.labels[index])}


@pytest.mark.parametrize("labeled", [True, False])
@pytest.mark.parametrize("bad", [(), (0, 17)])
def test_decoded_images_are_remembered_and_are_those_of_the_source(counted, labeled, bad):
    arrays = counted.source
    slow = Slow(arrays.images, arrays.labels if labeled else None, bad)
    options = {"seed": 4, "batch_size": 30, "augment": ("flip", "channels"), "num_threads": 3}
    batches = _take(data.train_iterator(counted._replace(source=slow), **options), 20)
    expected = _take(data.train_iterator(counted, **options), 20)
    for batch, other in zip(batches, expected, strict=True):
        assert ("label" in batch) == labeled
        good = batch["replaced"] == 0
        assert good.sum() == (~np.isin(other["label"], bad)).sum()
        for name in batch.keys() - {"replaced"}:
            assert batch[name].dtype == other[name].dtype
            np.testing.assert_array_equal(batch[name][good], other[name][good])
    once = np.setdiff1d(np.arange(100), bad)
    assert slow.reads[once].sum() < 2 * len(once)  # of six epochs and more: threads may meet at a record


def test_images_that_do_not_fit_are_decoded_each_time(counted, monkeypatch):
    monkeypatch.setattr(rows, "REMEMBERED_BYTES", 100 * 48 - 1)
    slow = Slow(counted.source.images, counted.source.labels)
    _take(data.train_iterator(counted._replace(source=slow), seed=4, batch_size=20), 10)
    assert slow.reads.min() >= 2


def test_speed_counts_images_after_what_was_prefetched(monkeypatch):
    clock = itertools.count(step=0.5)
    monkeypatch.setattr(pipeline.time, "perf_counter", lambda: next(clock))
    used = iter([{"image": np.zeros(7)}] * (2 * pipeline.PREFETCHED_BATCHES) + [{"image": np.zeros(4)}] * 3)
    assert data.images_per_second(used, 3) == 3 * 4 / 0.5
