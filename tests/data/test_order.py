"""The order of training is that of grain's own shuffled and repeated data set."""

import grain
import numpy as np
import pytest

from vdm_jax.data.order import records_at


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (7, 3), (1000, 2**32 - 1)])
def test_it_is_the_order_of_grain(count, seed):
    grains = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
    places = np.concatenate([np.arange(2 * count + 3), 10**6 + np.arange(5)])
    assert records_at(places, count, seed) == [grains[place] for place in places.tolist()]


def test_every_epoch_has_every_record_in_a_new_order():
    epochs = [records_at(number * 50 + np.arange(50), 50, 5) for number in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
