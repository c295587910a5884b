"""From records to batches. What stands at the n-th place of training depends on (seed, n) alone.

Training: source -> shuffle -> repeat -> this process's rows of a batch -> replace what can't be decoded
-> augment. Batch k holds the places k B … (k + 1) B - 1 of an endless stream, and process p of P the
p-th part of them, so the rows of all processes, put together, are the batch that one process would
have made, in its order. Whole batches are read and augmented at a time: Python's cost for one image
would be more than the image's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from vdm_jax.data import augment as augmenting
from vdm_jax.data import captioning
from vdm_jax.data import crop as cropping
from vdm_jax.data.datasets import Dataset
from vdm_jax.data.order import records_at
from vdm_jax.data.replace import Replacement
from vdm_jax.data.rows import read_rows, remembered
from vdm_jax.data.sources import Arrays, Record, trait
from vdm_jax.errors import Undecodable, UserError

DECODING_THREADS = 8  # where images are decoded; arrays get one: more only wait for each other
PREFETCHED_BATCHES = 16
_ENDLESS = 2**40  # batches
_PURPOSE, _CAPTION = 0, 2  # of the random numbers: the augmentations, and which caption; `replace` has 1

Batch = dict[str, np.ndarray]


def train_iterator(
    dataset: Dataset,
    *,
    seed: int,
    batch_size: int,
    augment: tuple[str, ...] = (),
    size: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int | None = None,
) -> grain.DatasetIterator[Batch]:
    """Endless batches of b = batch_size / process_count examples, newly shuffled every epoch.

    Keys: "image" [b, …] in the data set's dtype, "augmented" float32 [b] (whether the image was), "replaced"
    float32 [b] (whether the record at this place can't be decoded and another stands for it), "label" int32 [b] if
    the data has labels, and "caption" of text [b] if it has captions: of several the one that is drawn.
    `get_state()` is {'next_index': batches so far}: `set_state` of it resumes exactly, on any
    number of processes. A batch may span two epochs. size: in pixels, of what is taken of each image if it is cropped,
    0 for its own. Raises UserError naming the field.
    """
    kinds = tuple(augment)
    taken = (size or dataset.shape[0]) if augmenting.CROP in kinds else 0
    highest = (dataset.vocabulary or 256) - 1
    augmenting.check_kinds(kinds, dataset.shape)
    augmenting.check_meaning(kinds, trait(dataset.source, "falsified_by", ()), dataset.name)
    rows = _rows(batch_size, process_index, process_count)
    if batch_size > dataset.num_examples:
        raise UserError(
            f"data.batch_size={batch_size} is larger than the {dataset.split} split of "
            f"{dataset.name}, which has {dataset.num_examples} examples; use at most that"
        )
    if not 0 <= seed < 2**32:
        raise UserError(f"training.seed={seed} must be between 0 and 2**32 - 1")
    source = remembered(dataset.source, dataset.shape)
    replacement = Replacement(source, seed)

    def batch(number: int) -> Batch:
        places = number * batch_size + rows
        replaced, bit = np.zeros((2, len(rows)), np.float32)

        def other(row: int, error: Undecodable) -> Record:
            replaced[row] = 1
            return replacement(int(places[row]), error)

        records = read_rows(source, records_at(places, dataset.num_examples, seed), other)
        several = records.pop("captions", None)
        if several is not None:
            rng = np.random.default_rng([seed, _CAPTION, number])
            records["caption"] = captioning.draw(several, rng.random(batch_size)[rows])
        if kinds:
            # The draws of the whole batch: a process takes its own.
            rng = np.random.default_rng([seed, _PURPOSE, number])
            drawn = augmenting.draw(rng, batch_size, kinds, dataset.shape[-1]).rows(rows)
            if taken:
                crops = cropping.draw(rng, batch_size, taken).rows(rows)
                records["image"] = cropping.crop(records["image"], crops, taken, highest)
            records["image"], bit = augmenting.augment(records["image"], drawn), drawn.bit
        return records | {"augmented": bit, "replaced": replaced}

    return _iterator(batch, _ENDLESS, dataset, num_threads)


def eval_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    examples: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int | None = None,
) -> Iterator[Batch]:
    """Every example once, in order, in ⌈N / batch_size⌉ batches of b = batch_size / process_count.

    N: all of them, or the first `examples`.
    Keys: those of training but "replaced" ("augmented" is zero), "mask" float32 [b], 1 for an example
    and 0 for padding, and "index" int32 [b], the place in the split. Padding repeats the last example; its
    index goes on counting. A record that can't be decoded is a UserError: no image may be left out.
    """
    rows = _rows(batch_size, process_index, process_count)
    count = min(examples or dataset.num_examples, dataset.num_examples)

    def batch(number: int) -> Batch:
        places = number * batch_size + rows
        records = read_rows(dataset.source, np.minimum(places, count - 1).tolist(), refuse)
        return records | {
            "augmented": np.zeros(len(rows), np.float32),
            "mask": (places < count).astype(np.float32),
            "index": places.astype(np.int32),
        }

    return _iterator(batch, -(-count // batch_size), dataset, num_threads)


def refuse(row: int, error: Undecodable) -> Record:
    """Where every image counts, none stands for another."""
    raise error


def images_per_second(iterator: Iterator[Batch], batches: int) -> float:
    """Of the pipeline alone, once what it had prefetched is used up."""
    for _ in range(2 * PREFETCHED_BATCHES):
        next(iterator)
    began = time.perf_counter()
    images = sum(len(next(iterator)["image"]) for _ in range(batches))
    return images / (time.perf_counter() - began)


def _rows(batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """This process's rows of a batch, [batch_size / process_count]."""
    if batch_size < 1 or batch_size % process_count:
        nearest = max(batch_size // process_count, 1) * process_count
        raise UserError(
            f"data.batch_size={batch_size} must be positive and divide by the {process_count} processes; try {nearest}"
        )
    share = batch_size // process_count
    return process_index * share + np.arange(share)


def _iterator(batch: Any, count: int, dataset: Dataset, num_threads: int | None) -> grain.DatasetIterator[Batch]:
    """The batches 0 … count - 1, made ahead by threads; its state is the number of the next one."""
    if num_threads is None:
        num_threads = 1 if isinstance(dataset.source, Arrays) else DECODING_THREADS
    options = grain.ReadOptions(num_threads, PREFETCHED_BATCHES)
    return iter(grain.MapDataset.range(count).map(batch).to_iter_dataset(options))
