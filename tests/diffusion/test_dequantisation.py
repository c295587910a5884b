import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from vdm_jax.diffusion import decoders, dequantisation


@pytest.mark.parametrize("vocabulary", [2, 17, 256])
def test_every_place_of_a_bin_comes_back_as_its_level(vocabulary):
    x = np.arange(vocabulary)
    for u in (0.001, 0.5, 0.999):
        f = dequantisation.dequantise(jnp.asarray(x), jnp.full(vocabulary, u, jnp.float32), vocabulary)
        np.testing.assert_array_equal(dequantisation.quantise(f, vocabulary), x)
        assert np.all((f > -1) & (f < 1))
    f = dequantisation.dequantise(jnp.asarray(x), jnp.full(vocabulary, 0.5), vocabulary)
    np.testing.assert_array_equal(f, decoders.encode(jnp.asarray(x), vocabulary))
    np.testing.assert_array_equal(dequantisation.quantise(jnp.array([-1.7, 3.0]), vocabulary), [0, vocabulary - 1])


def test_bits_of_a_density_bound_those_of_its_bins(x64):
    """p = N(m, s²): E_u[−log p(f)] − log w in closed form, above −log of the bin's mass, equal for a flat density."""
    vocabulary, mean = 17, 0.2
    x = np.arange(vocabulary)
    width = 2 / vocabulary
    centre = 2 * (x + 0.5) / vocabulary - 1
    for deviation, gap in ((0.3, 0.2), (30.0, 1e-6)):
        u = (np.arange(4000) + 0.5) / 4000
        f = np.asarray(dequantisation.dequantise(jnp.asarray(x)[:, None], jnp.asarray(u)[None, :].repeat(17, 0), 17))
        bits = -norm.logpdf(f, mean, deviation).mean(1) + dequantisation.bin_nats(1, vocabulary)
        moment = np.square(centre - mean) + width**2 / 12
        closed = 0.5 * (moment / deviation**2 + np.log(2 * np.pi * deviation**2)) - np.log(width)
        np.testing.assert_allclose(bits, closed, rtol=1e-6)
        mass = norm.cdf(centre + width / 2, mean, deviation) - norm.cdf(centre - width / 2, mean, deviation)
        assert np.all(bits >= -np.log(mass) - 1e-9) and np.all(bits + np.log(mass) < gap)


def test_bytes_cost_seven_bits_more_than_their_density():
    np.testing.assert_allclose(dequantisation.bin_nats(3072, 256) / (3072 * np.log(2)), 7)
    assert dequantisation.bin_nats(3072, None) == 0
