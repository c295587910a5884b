"""The input pipeline: batches from records. Example n of training depends on (seed, n) alone.

The steps of training are: source -> shuffle -> repeat -> this process's rows of a batch -> replace undecodable records
-> augment. Batch k has the positions k B … (k + 1) B - 1 of an endless stream, and process p of P has the p-th part of
them. So the rows of all processes, concatenated, are the batch that a single process would make. Records are read and
augmented one batch at a time, because Python's overhead for one image would exceed the cost of the image.
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

DECODING_THREADS = 8  # for sources that decode images; arrays use one thread, as more would wait for each other
PREFETCHED_BATCHES = 16
_ENDLESS = 2**40  # batches
# Purposes of the random numbers: the augmentations, and the choice of a caption; `replace` has 1.
_PURPOSE, _CAPTION = 0, 2

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
    """Return an endless iterator of training batches, reshuffled every epoch.

    A batch may span two epochs. `get_state()` returns {'next_index': number of batches so far}, and `set_state`
    resumes exactly from it, on any number of processes.

    Args:
        dataset: The data set.
        seed: training.seed; it determines the order and the augmentations.
        batch_size: The global batch size.
        augment: data.augment, the names of the augmentations.
        size: The side of the random crops in pixels; 0 for that of the images.
        process_index: The index of this process.
        process_count: The number of processes.
        num_threads: The number of reading threads; None chooses by the source.

    Returns:
        An iterator of dictionaries for b = batch_size / process_count examples: "image" [b, …] in the data set's
        dtype, "augmented" float32 [b] (1 if the image was augmented), "replaced" float32 [b] (1 if the record was
        undecodable and another record replaces it), "label" int32 [b] if the data set has labels, and "caption"
        objects [b] if it has captions (one of several is drawn).

    Raises:
        UserError: If an argument is out of range; the sentence names the config field.
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
            # Every process draws for the global batch and uses its own rows.
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
    """Iterate over every example once, in order.

    Args:
        dataset: The data set.
        batch_size: The global batch size.
        examples: The number of examples, N, from the start of the split; 0 for all.
        process_index: The index of this process.
        process_count: The number of processes.
        num_threads: The number of reading threads; None chooses by the source.

    Returns:
        An iterator of ⌈N / batch_size⌉ batches of b = batch_size / process_count examples. The keys are those of
        training without "replaced" ("augmented" is zero), "mask" float32 [b] (1 for an example and 0 for padding), and
        "index" int32 [b] (the position in the split). Padding repeats the last example; its indices keep counting.

    Raises:
        UserError: If a record can't be decoded, because evaluation must not skip an image.
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
    """Raise `error`: evaluation does not replace undecodable records."""
    raise error


def images_per_second(iterator: Iterator[Batch], batches: int) -> float:
    """Measure the throughput of the pipeline alone, after its prefetched batches are consumed."""
    for _ in range(2 * PREFETCHED_BATCHES):
        next(iterator)
    began = time.perf_counter()
    images = sum(len(next(iterator)["image"]) for _ in range(batches))
    return images / (time.perf_counter() - began)


def _rows(batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """Return the indices of this process's rows of a batch, [batch_size / process_count]."""
    if batch_size < 1 or batch_size % process_count:
        nearest = max(batch_size // process_count, 1) * process_count
        raise UserError(
            f"data.batch_size={batch_size} must be positive and divisible by the {process_count} processes; "
            f"try {nearest}"
        )
    share = batch_size // process_count
    return process_index * share + np.arange(share)


def _iterator(batch: Any, count: int, dataset: Dataset, num_threads: int | None) -> grain.DatasetIterator[Batch]:
    """Iterate over the batches 0 … count - 1, which threads prefetch; its state is the number of the next batch."""
    if num_threads is None:
        num_threads = 1 if isinstance(dataset.source, Arrays) else DECODING_THREADS
    options = grain.ReadOptions(num_threads, PREFETCHED_BATCHES)
    return iter(grain.MapDataset.range(count).map(batch).to_iter_dataset(options))
