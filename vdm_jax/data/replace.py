"""Replacement of undecodable records in training, so that training continues and counts them.

The replacement depends on (seed, position in the stream) alone, so a resumed run and a run with another number of
processes use the same one.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

from vdm_jax.data.sources import Record, Source
from vdm_jax.errors import Undecodable, UserError

NAMED = 10  # the number of records that a process logs; the others are only counted
TRIES = 100
FORGIVEN = 3  # records, but at most a twentieth of a small data set
_PURPOSE = 1  # separates these random numbers from those of the augmentations


def forgiven(count: int) -> int:
    """Return how many of `count` records may be undecodable for any share, as one record of a few is a large share."""
    return min(FORGIVEN, count // 20)


def allowed(count: int, share: float) -> float:
    """Return how many of `count` records may be undecodable with data.max_undecodable=share; 0 if `share` is 0."""
    return share * count + forgiven(count) if share else 0.0


class Replacement:
    """A function of (position in the stream, error of its record) that returns another record."""

    def __init__(self, source: Source, seed: int):
        self._source, self._seed = source, seed
        self._logged: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, place: int, error: Undecodable) -> Record:
        self._log(error)
        rng = np.random.default_rng([self._seed, _PURPOSE, place])
        for index in rng.integers(len(self._source), size=TRIES):
            try:
                return self._source[int(index)]
            except Undecodable as another:
                self._log(another)
        raise UserError(f"{TRIES} records in a row can't be decoded, such as this: {error}") from error

    def _log(self, error: Undecodable) -> None:
        """Print the record's error to stderr once; after NAMED records, print that the others are only counted."""
        sentence = str(error)
        with self._lock:
            if sentence in self._logged or len(self._logged) > NAMED:
                return
            self._logged.add(sentence)
            last = len(self._logged) > NAMED
            what = "further records that can't be decoded are replaced and only counted"
            # Under the lock, because the lines of two threads could interleave.
            print(
                f"vdm_jax: {what if last else f'replaced by another record: {sentence}'}", file=sys.stderr, flush=True
            )
