import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import times


@pytest.mark.parametrize("total", [1, 4, 64, 512])
def test_stratified_times_cover_the_interval_exactly(total):
    """One t in every [k/total, (k + 1)/total)."""
    for seed in range(5):
        u = jax.random.uniform(jax.random.key(seed))
        t = np.asarray(times.stratified(u, jnp.arange(total), total))
        np.testing.assert_array_equal(np.sort(np.floor(t * total)), np.arange(total))


@pytest.mark.parametrize("total", [3, 100, 154, 1000])
def test_stratified_times_are_evenly_spaced_for_any_size(total):
    t = np.sort(times.stratified(jnp.float32(0.7123), jnp.arange(total), total))
    assert t.shape == (total,) and t[0] >= 0 and t[-1] < 1
    np.testing.assert_allclose(np.diff(t), 1 / total, atol=2e-7)


def test_every_stratified_time_is_uniform():
    u = jax.random.uniform(jax.random.key(0), (20_000,))
    t = np.asarray(jax.vmap(lambda u: times.stratified(u, jnp.array([5]), 8)[0])(u))
    quantiles = np.quantile(t, np.linspace(0.05, 0.95, 19))
    np.testing.assert_allclose(quantiles, np.linspace(0.05, 0.95, 19), atol=0.015)


@pytest.mark.parametrize("parts", [2, 3, 24])
@pytest.mark.parametrize("total", [24, 32])
def test_any_split_of_the_global_batch_has_the_same_times(total, parts):
    """Bit for bit where total is a power of two; else XLA may round i/total one unit differently."""
    u = jnp.float32(0.31)
    whole = times.stratified(u, jnp.arange(total), total)
    split = [times.stratified(u, jnp.asarray(part), total) for part in np.array_split(np.arange(total), parts)]
    np.testing.assert_allclose(np.concatenate(split), whole, rtol=0, atol=0 if total == 32 else 1.2e-7)


def test_times_are_the_same_when_the_batch_lies_on_two_devices():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    halves = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    stratified = jax.jit(lambda index: times.stratified(jnp.float32(0.31), index, 32))
    index = jnp.arange(32)
    np.testing.assert_array_equal(stratified(jax.device_put(index, halves)), stratified(index))


def test_independent_times_depend_on_their_own_key_alone():
    keys = jax.random.split(jax.random.key(0), 8)
    t = times.independent(keys)
    np.testing.assert_array_equal(times.independent(keys[3:5]), t[3:5])
    assert len(np.unique(t)) == 8 and np.all((t >= 0) & (t < 1))


@pytest.mark.parametrize("num_timesteps", [1, 10, 1000, 10**6])
def test_grid_times_are_multiples_of_one_over_t(num_timesteps):
    t = np.float32(np.linspace(0, 1, 2049)[:-1])
    on_grid = np.asarray(times.to_grid(jnp.asarray(t), num_timesteps))
    i = np.round(on_grid.astype(np.float64) * num_timesteps).astype(int)
    np.testing.assert_allclose(on_grid, np.float32(i) / np.float32(num_timesteps), rtol=1.2e-7)
    assert i.min() == 1 and i[0] == 1 and i.max() <= num_timesteps
    np.testing.assert_array_less(t, on_grid + 1e-7)
    np.testing.assert_array_less(on_grid, t + 1 / num_timesteps + 1e-7)


def test_every_grid_point_is_equally_likely():
    t = times.to_grid((jnp.arange(7000.0) + 0.5) / 7000, 7)
    values, counts = np.unique(t, return_counts=True)
    np.testing.assert_allclose(values, np.arange(1, 8) / 7, rtol=1e-6)
    np.testing.assert_array_equal(counts, 1000)


class TestImportance:
    golden = np.load(pathlib.Path(__file__).parent / "goldens" / "improved_diffusion.npz")

    def test_history_and_weights_are_the_originals(self) -> None:
        history = times.no_history(7)
        t, values = self.golden["resampler|t"], self.golden["resampler|losses"]
        for number, first in enumerate(range(0, 160, 20)):
            part = slice(first, first + 20)
            history = times.remember(history, jnp.asarray(t[part]), jnp.asarray(values[part], jnp.float32))
            np.testing.assert_allclose(times.importance(history), self.golden["resampler|p"][number], rtol=1e-5)
        np.testing.assert_allclose(history.losses, self.golden["resampler|history"], rtol=1e-6)
        np.testing.assert_array_equal(history.counts, self.golden["resampler|counts"])

    def test_uniform_until_every_level_has_its_losses(self) -> None:
        history = times.History(jnp.ones((4, 10)), jnp.array([10, 10, 9, 10]))
        np.testing.assert_array_equal(times.importance(history), np.full(4, 0.25))

    def test_uniform_if_all_losses_are_0(self) -> None:
        history = times.History(jnp.zeros((4, 10)), jnp.full(4, 10))
        np.testing.assert_allclose(times.importance(history), np.full(4, 0.25))

    def test_draws_follow_the_probabilities_and_weights_undo_them(self) -> None:
        p = jnp.array([0.5, 0.0, 0.3, 0.2])
        index = times.draw_levels(jax.random.split(jax.random.key(0), 40_000), p)
        counts = np.bincount(np.asarray(index), minlength=4) / 40_000
        np.testing.assert_allclose(counts, p, atol=4 * 0.5 / 200)
        assert counts[1] == 0
        # E[f/(T p)] = mean of f over levels, where p > 0
        f = jnp.array([3.0, 0.0, -1.0, 10.0])
        estimate = np.asarray(f[index] / (4 * p[index]))
        assert abs(estimate.mean() - f.mean()) < 4 * estimate.std() / 200
