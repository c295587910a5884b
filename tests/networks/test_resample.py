"""Halving and doubling against a filter written out in numpy: zeros between pixels, convolve, drop pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.networks.conv import conv
from vdm_jax.networks.resample import average, blur, double, halve, nearest

TAPS = np.array([1.0, 3.0, 3.0, 1.0]) / 8


def filtered(x, taps, up, down, before, after):
    """Along axes 1 and 2: zeros between pixels, zeros around, the taps, every down-th pixel. float64."""
    for axis in (1, 2):
        x = np.moveaxis(np.asarray(x, np.float64), axis, 0)
        wide = np.zeros((x.shape[0] * up, *x.shape[1:]))
        wide[::up] = x
        wide = np.pad(wide, [(before, after)] + [(0, 0)] * (x.ndim - 1))
        size = len(wide) - len(taps) + 1
        x = sum(tap * wide[k : k + size] for k, tap in enumerate(taps))[::down]
        x = np.moveaxis(x, 0, axis)
    return x


@pytest.fixture
def x(key):
    return jax.random.normal(key, (2, 6, 8, 3))


@pytest.mark.slow
def test_filters_are_those_of_stylegan2(x):
    np.testing.assert_allclose(halve(x), filtered(x, TAPS, 1, 2, 1, 1), atol=1e-6)
    np.testing.assert_allclose(double(x), filtered(x, 2 * TAPS, 2, 1, 2, 1), atol=1e-6)
    np.testing.assert_allclose(blur(x), filtered(x, TAPS, 1, 1, 2, 2), atol=1e-6)


def test_pixels_are_averaged_and_repeated(x):
    np.testing.assert_allclose(average(x), filtered(x, [0.5, 0.5], 1, 2, 0, 0), atol=1e-6)
    np.testing.assert_array_equal(nearest(x), np.repeat(np.repeat(x, 2, 1), 2, 2))
    np.testing.assert_allclose(average(nearest(x)), x, atol=1e-6)


@pytest.mark.parametrize(("up", "down"), [(double, halve), (nearest, average)])
def test_doubling_is_four_times_the_adjoint_of_halving(up, down, x, key):
    y = jax.random.normal(key, (2, 3, 4, 3))
    np.testing.assert_allclose(4 * jnp.sum(down(x) * y), jnp.sum(x * up(y)), rtol=1e-5)


@pytest.mark.slow
def test_a_constant_stays_itself_away_from_the_border():
    ones = jnp.ones((1, 8, 8, 1))
    for out in (halve(ones), double(ones), blur(ones)):
        np.testing.assert_allclose(out[:, 2:-2, 2:-2], 1, rtol=1e-6)


def test_blur_and_an_unpadded_convolution_halve(x):
    """With one tap in the middle of the kernel that is the filter itself, at every second pixel."""
    w = jnp.zeros((3, 3, 3, 3)).at[1, 1].set(jnp.eye(3))
    out = conv(blur(x), w, 2, 0)
    np.testing.assert_allclose(out, halve(x), atol=1e-6)
