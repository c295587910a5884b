import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.stats import norm as normal
from scipy.stats import norm

from vdm_jax.diffusion import decoders, dequantization
from vdm_jax.optimizer import promoting


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [2, 17, 256])
def test_every_place_of_a_bin_comes_back_as_its_level(vocabulary):
    x = np.arange(vocabulary)
    for u in (0.001, 0.5, 0.999):
        f = dequantization.dequantize(jnp.asarray(x), jnp.full(vocabulary, u, jnp.float32), vocabulary)
        np.testing.assert_array_equal(dequantization.quantize(f, vocabulary), x)
        assert np.all((f > -1) & (f < 1))
    f = dequantization.dequantize(jnp.asarray(x), jnp.full(vocabulary, 0.5), vocabulary)
    np.testing.assert_array_equal(f, decoders.encode(jnp.asarray(x), vocabulary))
    np.testing.assert_array_equal(dequantization.quantize(jnp.array([-1.7, 3.0]), vocabulary), [0, vocabulary - 1])


def test_bits_of_a_density_bound_those_of_its_bins(x64):
    """p = N(m, s²): E_u[−log p(f)] − log w in closed form, above −log of the bin's mass, equal for a flat density."""
    vocabulary, mean = 17, 0.2
    x = np.arange(vocabulary)
    width = 2 / vocabulary
    center = 2 * (x + 0.5) / vocabulary - 1
    for deviation, gap in ((0.3, 0.2), (30.0, 1e-6)):
        u = (np.arange(4000) + 0.5) / 4000
        f = np.asarray(dequantization.dequantize(jnp.asarray(x)[:, None], jnp.asarray(u)[None, :].repeat(17, 0), 17))
        bits = -norm.logpdf(f, mean, deviation).mean(1) + dequantization.bin_nats(1, vocabulary)
        moment = np.square(center - mean) + width**2 / 12
        closed = 0.5 * (moment / deviation**2 + np.log(2 * np.pi * deviation**2)) - np.log(width)
        np.testing.assert_allclose(bits, closed, rtol=1e-6)
        mass = norm.cdf(center + width / 2, mean, deviation) - norm.cdf(center - width / 2, mean, deviation)
        assert np.all(bits >= -np.log(mass) - 1e-9) and np.all(bits + np.log(mass) < gap)


def test_bytes_cost_seven_bits_more_than_their_density():
    np.testing.assert_allclose(dequantization.bin_nats(3072, 256) / (3072 * np.log(2)), 7)
    assert dequantization.bin_nats(3072, None) == 0


def test_a_flow_of_no_change_is_uniform_noise():
    u = jnp.asarray([[0.0, 1e-7, 0.3, 0.9999999]])
    same, log_q = dequantization.variational(u, 3, lambda k, kept: (jnp.zeros_like(kept), jnp.zeros_like(kept)))
    np.testing.assert_allclose(same, u, atol=1e-6)
    np.testing.assert_allclose(log_q, 0, atol=1e-5)


def test_log_q_is_the_change_of_variables_and_every_number_moves(x64):
    rng = np.random.default_rng(0)
    mix = jnp.asarray(rng.standard_normal((3, 2, 8, 8)))
    couple = lambda k, kept: tuple(jnp.tanh(kept.reshape(-1, 8) @ mix[k, i] + 0.3).reshape(kept.shape) for i in (0, 1))
    flow = lambda u: dequantization.variational(u.reshape(1, 2, 2, 2), 3, couple)
    u = jnp.asarray(rng.uniform(size=8))
    both = jax.jit(lambda u: (flow(u), jax.jacrev(lambda u: flow(u)[0].reshape(-1))(u)))
    (moved, log_q), jacobian = both(u)
    np.testing.assert_allclose(log_q[0], -np.linalg.slogdet(jacobian)[1], rtol=1e-8)
    assert np.all(np.abs(moved.reshape(-1) - u) > 1e-3) and np.all((moved > 0) & (moved < 1))
    keeps = [dequantization.kept((2, 2, 2), k) for k in range(2)]
    np.testing.assert_array_equal(keeps[0] + keeps[1], 1)
    assert np.all(dequantization.kept((1,), 0) == 0)


@pytest.mark.slow
def test_the_bound_tightens_to_the_probability_of_the_level(x64):
    """p = N(m, s²) in five bins, one coupling whose s and t are free for every level, the expectation by quadrature."""
    vocabulary, mean, deviation = 5, 0.1, 0.3
    levels, u = jnp.arange(vocabulary), (jnp.arange(100.0) + 0.5) / 100
    grid = jnp.broadcast_to(u, (vocabulary, 100)).reshape(-1, 1)
    x = jnp.repeat(levels, 100).reshape(-1, 1)

    def bound(free):
        log_s, t = (jnp.repeat(a, 100).reshape(-1, 1) for a in free)
        moved, log_q = dequantization.variational(grid, 1, lambda k, kept: (log_s, t))
        log_p = normal.logpdf(dequantization.dequantize(x, moved, vocabulary), mean, deviation)[:, 0]
        return (log_q - log_p).reshape(vocabulary, 100).mean(1) + dequantization.bin_nats(1, vocabulary)

    optimizer = promoting(optax.adam(0.05))

    @jax.jit
    def fit(free):
        def step(_, carry):
            free, state = carry
            updates, state = optimizer.update(jax.grad(lambda f: bound(f).sum())(free), state)
            return optax.apply_updates(free, updates), state

        return jax.lax.fori_loop(0, 200, step, (free, optimizer.init(free)))[0]

    start = (jnp.zeros(vocabulary), jnp.zeros(vocabulary))
    edges = np.linspace(-1, 1, vocabulary + 1)
    exact = -np.log(np.diff(norm.cdf(edges, mean, deviation)))
    uniform, tuned = np.asarray(bound(start)) - exact, np.asarray(bound(fit(start))) - exact
    center = 2 * (np.arange(vocabulary) + 0.5) / vocabulary - 1  # with no flow it is the bound of uniform noise
    moment = np.square(center - mean) + (2 / vocabulary) ** 2 / 12
    closed = 0.5 * (moment / deviation**2 + np.log(2 * np.pi * deviation**2)) - np.log(2 / vocabulary)
    np.testing.assert_allclose(uniform + exact, closed, rtol=1e-4)
    assert np.all(tuned > -1e-3) and np.all(tuned < 0.1 * uniform + 1e-3) and uniform.max() > 0.2
