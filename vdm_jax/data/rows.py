"""Reading of many records at a time, and caching of decoded images that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vdm_jax.data.sources import Arrays, Record, Source, first_decodable
from vdm_jax.errors import Undecodable

REMEMBERED_BYTES = 2**30  # enough for CIFAR-10; memory is committed as images are decoded

# A function of (row, its error) that returns a replacement for a record that can't be decoded, or raises.
Instead = Callable[[int, Undecodable], Record]


def read_rows(source: Source, indices: Sequence[int], instead: Instead) -> Record:
    """Read the records at `indices` [b] as a batch: "image" [b, …], integers as int32 [b], and text as objects [b].

    Args:
        source: The source of the records.
        indices: The indices of the records.
        instead: Returns the replacement of an undecodable record, or raises.
    """
    if isinstance(source, Remembered):
        return source.rows(np.asarray(indices), instead)
    if isinstance(source, Arrays):
        batch: Record = {"image": source.images[indices]}
        if source.labels is not None:
            batch["label"] = source.labels[indices].astype(np.int32)
        return batch
    records: list[Record] = []
    for row, index in enumerate(indices):
        try:
            records.append(source[index])
        except Undecodable as error:
            records.append(instead(row, error))
    return {name: _column([record[name] for record in records]) for name in records[0]}


def _column(values: list[Any]) -> np.ndarray:
    column = _room(values[0], len(values))
    for row, value in enumerate(values):
        column[row] = value
    return column


def _room(value: Any, count: int) -> np.ndarray:
    """An array for `count` values such as this: arrays, integers as int32, or text and tuples of it as objects."""
    if isinstance(value, str | tuple):
        return np.empty(count, object)
    array = np.asarray(value)
    return np.empty((count, *array.shape), array.dtype if array.ndim else np.int32)


class Remembered:
    """A cache of the records of `source`, which decodes each once.

    Threads can share it without a lock, because any two of them write the same values.
    """

    def __init__(self, source: Source):
        self._source, count = source, len(source)
        first = first_decodable(source.__getitem__, count)
        self._kept = {name: _room(value, count) for name, value in first.items()}
        self._known = np.zeros(count, bool)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return self._source[index]

    def rows(self, indices: np.ndarray, instead: Instead) -> Record:
        """Read a batch as `read_rows` does."""
        others: dict[int, Record] = {}
        for row in np.flatnonzero(~self._known[indices]).tolist():
            try:
                record = self._source[int(indices[row])]
            except Undecodable as error:
                others[row] = instead(row, error)
                continue
            for name, kept in self._kept.items():
                kept[indices[row]] = record[name]
            self._known[indices[row]] = True
        batch = {name: kept[indices] for name, kept in self._kept.items()}
        for row, record in others.items():
            for name in batch:
                batch[name][row] = record[name]
        return batch


def remembered(source: Source, shape: tuple[int, ...]) -> Source:
    """Return `source` with a cache of its decoded images in memory, if all of them fit."""
    fits = len(source) * int(np.prod(shape)) <= REMEMBERED_BYTES
    return Remembered(source) if fits and not isinstance(source, Arrays) else source
