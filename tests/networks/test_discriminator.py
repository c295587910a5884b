"""Groups of a minibatch, however the batch is split: over devices, and into microbatches."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from vdm_jax.networks.discriminator import Rows, all_rows, minibatch_deviation

SHAPE = (2, 2, 3)


def by_hand(h: np.ndarray) -> np.ndarray:
    """Of places k, k + n/4, k + n/2, k + 3n/4: √(variance + 1e-8), averaged."""
    n, group = len(h), min(4, len(h))
    out = np.zeros(n)
    for k in range(n):
        members = [m for m in range(n) if m % (n // group) == k % (n // group)]
        out[k] = np.sqrt(h[members].var(0) + 1e-8).mean()
    return out


@pytest.mark.parametrize("count", [2, 4, 16])
def test_deviation_of_groups(count: int) -> None:
    h = np.random.default_rng(count).standard_normal((count, *SHAPE)).astype(np.float32)
    found = minibatch_deviation(jnp.asarray(h), all_rows(count))
    np.testing.assert_allclose(found, by_hand(h), rtol=1e-5)
    assert count < 16 or len(np.unique(np.round(found, 5))) == 4


def test_split_over_devices_it_is_that_of_the_whole_batch_and_so_is_its_gradient() -> None:
    """The gradient of Σ over all examples, in the rows of each device: what a step adds up under pmap."""
    h = np.random.default_rng(0).standard_normal((2, 4, *SHAPE)).astype(np.float32)
    weight = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)

    @partial(jax.pmap, axis_name="batch", devices=jax.devices()[:2])
    def split(h: Array, weight: Array) -> tuple[Array, Array]:
        index = jax.lax.axis_index("batch") * 4 + jnp.arange(4)
        rows = Rows(index, lambda a: jax.lax.all_gather(a, "batch", tiled=True))
        value = lambda h: minibatch_deviation(h, rows)
        return value(h), jax.grad(lambda h: jnp.sum(weight * value(h)))(h)

    value, slope = split(h, weight)
    whole = h.reshape(8, *SHAPE)
    np.testing.assert_allclose(np.reshape(value, 8), by_hand(whole), rtol=1e-5)
    total = lambda h: jnp.sum(weight.reshape(8) * minibatch_deviation(h, all_rows(8)))
    np.testing.assert_allclose(
        np.reshape(slope, whole.shape), jax.grad(total)(jnp.asarray(whole)), rtol=1e-4, atol=1e-6
    )


def test_microbatches_of_every_second_row_have_the_groups_of_the_batch() -> None:
    """As `training.accumulate` cuts it; with two devices the gathered places of a microbatch are 0, 2, 4, …"""
    h = np.random.default_rng(3).standard_normal((16, *SHAPE)).astype(np.float32)
    for part in range(2):
        index = np.arange(part, 16, 2)
        mine = index[4:]  # of the second device
        everything = {1: jnp.asarray(index), 4: jnp.asarray(h[index])}
        rows = Rows(jnp.asarray(mine), lambda a, everything=everything: everything[a.ndim])
        found = minibatch_deviation(jnp.asarray(h[mine]), rows)
        np.testing.assert_allclose(found, by_hand(h)[mine], rtol=1e-5)
