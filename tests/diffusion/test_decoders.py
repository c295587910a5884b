import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.closed_forms import level
from vdm_jax.core import chain as chains
from vdm_jax.diffusion import decoders, losses
from vdm_jax.errors import UserError

NODES = np.linspace(-8, 8, 161)
WEIGHTS = np.exp(-0.5 * NODES**2) / np.sum(np.exp(-0.5 * NODES**2))


def reconstruction_bits(gamma_0, levels, vocabulary):
    """E_ε[−log₂ p(x|z_0)] per dimension, by quadrature over ε, for each level."""
    x = np.repeat(np.asarray(levels), len(NODES)).reshape(-1, 1)
    eps = np.tile(NODES, len(levels)).reshape(-1, 1)

    @jax.jit
    def reconstruction(x, eps):
        return losses.reconstruction(x, decoders.encode(x, vocabulary), eps, level(gamma_0), vocabulary)

    nats = reconstruction(x, eps)
    return np.asarray(losses.bits_per_dim(nats, 1)).reshape(len(levels), -1) @ WEIGHTS


@pytest.mark.parametrize(("gamma_0", "bits"), [(-13.3, 0.0105), (-12, 0.417), (-10, 1.83), (-8, 3.27)])
def test_reconstruction_of_bytes(gamma_0, bits, x64):
    """Levels away from the ends have one and the same term; the outermost, with one neighbor, a smaller one."""
    terms = reconstruction_bits(gamma_0, [0, 60, 180, 255], 256)
    np.testing.assert_allclose(terms[1:3], bits, rtol=0.005)
    np.testing.assert_allclose(terms[1], terms[2], rtol=1e-7)
    np.testing.assert_allclose(terms[0], terms[3], rtol=1e-9)
    np.testing.assert_array_less(0.49 * terms[1], terms[0])
    np.testing.assert_array_less(terms[0], 0.7 * terms[1])


@pytest.mark.parametrize(("gamma_0", "bits", "atol"), [(-13.3, 0.0, 1e-12), (-8, 0.005, 5e-4), (-6, 0.76, 0.02)])
def test_reconstruction_of_17_levels(gamma_0, bits, atol, x64):
    np.testing.assert_allclose(np.mean(reconstruction_bits(gamma_0, np.arange(17), 17)), bits, atol=atol)


def test_gamma_0_for_a_vocabulary_keeps_the_noise_per_bin(x64):
    """−13.3 + 2 ln(256/V) is the same noise relative to the width of a bin."""
    gamma_0 = -13.3 + 2 * np.log(256 / 17)
    np.testing.assert_allclose(gamma_0, -7.9, atol=0.03)
    np.testing.assert_allclose(reconstruction_bits(gamma_0, [8], 17), reconstruction_bits(-13.3, [128], 256), rtol=0.02)


@pytest.mark.parametrize("vocabulary", [2, 3, 17, 256])
def test_probabilities_sum_to_one_and_the_most_likely_level_is_the_data(vocabulary, x64):
    x = jnp.arange(vocabulary).reshape(-1, 1)
    noise = level(-13.3)
    z = noise.alpha * decoders.encode(x, vocabulary)
    every = jnp.broadcast_to(jnp.arange(vocabulary).reshape(1, -1), (vocabulary, vocabulary))
    log_prob = lambda v: decoders.log_prob(v.reshape(-1, 1), z, level(-3.0), vocabulary)
    one_by_one = jax.jit(jax.vmap(log_prob))(every.T)
    np.testing.assert_allclose(np.exp(one_by_one).sum(0), 1, rtol=1e-12)
    decoded = jax.jit(lambda z: decoders.decode(z, noise, vocabulary))(z)
    np.testing.assert_array_equal(decoded, x)
    assert decoded.dtype == jnp.int32


def test_softmax_is_proportional_to_q_of_z_given_x(x64):
    z, noise = jnp.asarray([[0.2, -0.7]]), level(-2.0)
    means = float(noise.alpha) * np.array([-0.8, -0.4, 0.0, 0.4, 0.8])
    densities = np.exp(-0.5 * (np.asarray(z)[..., None] - means) ** 2 / float(noise.sigma) ** 2)
    wanted = np.log(densities / densities.sum(-1, keepdims=True))
    for a, b in ((0, 3), (4, 1)):
        ours = decoders.log_prob(jnp.asarray([[a, b]]), z, noise, 5)
        np.testing.assert_allclose(ours, wanted[0, 0, a] + wanted[0, 1, b], rtol=1e-12)


def test_levels_are_the_centers_of_equal_bins():
    np.testing.assert_allclose(decoders.encode(jnp.arange(4), 4), [-0.75, -0.25, 0.25, 0.75])
    bytes_ = decoders.encode(jnp.asarray([0, 255], jnp.uint8), 256)
    np.testing.assert_allclose(bytes_, [-255 / 256, 255 / 256])
    assert bytes_.dtype == jnp.float32


@pytest.mark.slow
def test_one_level_per_example(x64):
    z = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 2, 1)))
    x = jnp.asarray(np.random.default_rng(1).integers(0, 9, z.shape))
    gammas = np.array([-4.0, -2.0, 0.0])
    together = decoders.log_prob(x, z, level(gammas), 9)
    apart = [decoders.log_prob(x[i : i + 1], z[i : i + 1], level(g), 9)[0] for i, g in enumerate(gammas)]
    np.testing.assert_allclose(together, apart, rtol=1e-13)


def test_drawn_levels_follow_their_probabilities():
    z, noise = jnp.full((20_000, 1), 0.1), level(jnp.float32(-1.5))
    draws = np.asarray(decoders.decode(z, noise, 5, jax.random.split(jax.random.key(0), len(z))))
    wanted = jax.nn.softmax(decoders.logits(z[:1], noise, 5))[0, 0]
    np.testing.assert_allclose(np.bincount(draws[:, 0], minlength=5) / len(z), wanted, atol=0.015)


def test_continuous_data_have_a_gaussian_decoder(x64):
    """p(x|z_0) = N(x; z_0/α_0, e^{γ_0}), its draws too; encoding leaves the data alone."""
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((2, 4, 3))
    noise = level(-2.0)
    residual = x - z / float(noise.alpha)
    wanted = np.sum(-0.5 * residual**2 * np.exp(2.0) - 0.5 * np.log(2 * np.pi * np.exp(-2.0)), axis=1)
    np.testing.assert_allclose(decoders.log_prob(jnp.asarray(x), jnp.asarray(z), noise, None), wanted, rtol=1e-12)
    np.testing.assert_array_equal(decoders.encode(jnp.asarray(x), None), x)
    np.testing.assert_allclose(decoders.decode(jnp.asarray(z), noise, None), z / float(noise.alpha), rtol=1e-14)
    many = jnp.full((20_000, 1), 0.5)
    draws = decoders.decode(many, noise, None, jax.random.split(jax.random.key(0), len(many)))
    np.testing.assert_allclose(np.mean(draws), 0.5 / noise.alpha, atol=0.01)
    np.testing.assert_allclose(np.std(draws), np.exp(-1.0), rtol=0.02)


def test_what_is_not_finite_has_no_level():
    z, noise = jnp.asarray([[0.0, jnp.nan, jnp.inf]]), level(-3.0)
    for found in (decoders.decode(z, noise, 4), decoders.decode_from_ends(z, 4)):
        assert found[0, 0] in (1, 2) and (found[0, 1:] == decoders.NOT_FINITE).all()
    with pytest.raises(UserError, match="1 of 2 samples are NaN or infinite"):
        chains.check_finite(np.asarray([[0, 3], [1, decoders.NOT_FINITE]]))
    chains.check_finite(np.asarray([[0.5, -1.0]], np.float32))
    with pytest.raises(UserError, match="1 of 1 samples"):
        chains.check_finite(np.asarray([[0.5, np.nan]], np.float32))
