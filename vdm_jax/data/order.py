"""The order of training: which record stands at a place of the endless stream, newly shuffled every epoch.

It is the order of `grain.MapDataset.range(count).seed(seed).shuffle().repeat()`, asked for a whole batch at a time: to
read a small record costs less than one step through that chain.
"""

from __future__ import annotations

import numpy as np
from grain.experimental import index_shuffle

_ROUNDS, _SEEDS = 4, 2**32


def records_at(places: np.ndarray, count: int, seed: int) -> list[int]:
    """Places [b] of the stream → records [b] in 0 … count − 1, a permutation for every epoch of `count` places."""
    first = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])  # 1: shuffle() comes right after seed()
    return [
        index_shuffle(place % count, max_index=count - 1, seed=(first + place // count) % _SEEDS, rounds=_ROUNDS)
        for place in places.tolist()
    ]
