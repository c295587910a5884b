"""Training goes on where a record can't be decoded: another stands at its place, and is counted.

Which one depends on (seed, place in the stream) alone, so a resumed run and one on another number of
processes see the same.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

from vdm_jax.data.sources import Record, Source
from vdm_jax.errors import Undecodable, UserError

NAMED = 10  # records a process tells of; the rest are only counted
TRIES = 100
FORGIVEN = 3  # records, but at most a twentieth of a small set
_PURPOSE = 1  # of the random numbers; the augmentations have another


def forgiven(count: int) -> int:
    """Records of `count` that may be bad whatever the share: a single one of 300 would be more than one of 1,000."""
    return min(FORGIVEN, count // 20)


def allowed(count: int, share: float) -> float:
    """Records of `count` that may be bad under data.max_undecodable; 0 where that is 0."""
    return share * count + forgiven(count) if share else 0.0


class Replacement:
    """(place in the stream, error of the record there) → another record."""

    def __init__(self, source: Source, seed: int):
        self._source, self._seed = source, seed
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, place: int, error: Undecodable) -> Record:
        self._tell(error)
        rng = np.random.default_rng([self._seed, _PURPOSE, place])
        for index in rng.integers(len(self._source), size=TRIES):
            try:
                return self._source[int(index)]
            except Undecodable as another:
                self._tell(another)
        raise UserError(f"{TRIES} records in a row can't be decoded, such as this: {error}") from error

    def _tell(self, error: Undecodable) -> None:
        """Name the record on stderr, once; after a few, say that no more are named."""
        sentence = str(error)
        with self._lock:
            if sentence in self._told or len(self._told) > NAMED:
                return
            self._told.add(sentence)
            last = len(self._told) > NAMED
            what = "further records that can't be decoded are replaced and only counted"
            # under the lock: `print` of two threads puts one line within the other
            print(
                f"vdm_jax: {what if last else f'replaced by another record: {sentence}'}", file=sys.stderr, flush=True
            )
