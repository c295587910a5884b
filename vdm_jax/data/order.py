"""The order of the records in training: an endless stream that is reshuffled every epoch.

The order is that of `grain.MapDataset.range(count).seed(seed).shuffle().repeat()`. It is computed for a batch at a
time, because reading a small record costs less than one step through that chain.
"""

from __future__ import annotations

import numpy as np
from grain.experimental import index_shuffle

_ROUNDS, _SEEDS = 4, 2**32


def records_at(places: np.ndarray, count: int, seed: int) -> list[int]:
    """Return the records at positions of the stream.

    Args:
        places: Positions in the stream, int [b].
        count: The number of records; each epoch of `count` positions is a permutation of them.
        seed: The seed of the permutations.

    Returns:
        The b indices of the records, each in 0 … count − 1.
    """
    first = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])  # 1: grain's shuffle() directly follows seed()
    return [
        index_shuffle(place % count, max_index=count - 1, seed=(first + place // count) % _SEEDS, rounds=_ROUNDS)
        for place in places.tolist()
    ]
