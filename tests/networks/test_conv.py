"""The three convolutions that differentiate into each other, against those that XLA and JAX derive."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vdm_jax.networks.conv import Conv, conv, conv_input_grad, conv_weight_grad

CASES = [
    # height, width, kernel, stride, padding on both sides or None for SAME
    (6, 5, (3, 3), 1, None),
    (6, 5, (3, 3), 2, None),
    (6, 5, (3, 3), 2, 1),
    (7, 8, (3, 1), 2, None),
    (4, 4, (1, 1), 1, None),
    (5, 4, (1, 1), 2, None),
    (2, 1, (3, 3), 1, None),
    (9, 6, (5, 3), 2, None),
    (8, 5, (3, 3), 2, 0),  # the last row is not read
    (5, 6, (3, 3), 1, 2),
]


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def reference(x, w, stride, padding=None):
    pads = "SAME" if padding is None else [(padding, padding)] * 2
    return lax.conv_general_dilated(x, w, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def arrays(height, width, kernel, stride=1, seed=0, padding=None):
    """x, w and a cotangent of conv(x, w)."""
    rng = np.random.default_rng(seed)
    x, w = jnp.zeros((2, height, width, 3)), jnp.zeros((*kernel, 3, 4))
    out = jax.eval_shape(lambda x, w: reference(x, w, stride, padding), x, w).shape
    return tuple(jnp.asarray(rng.standard_normal(s)) for s in ((2, height, width, 3), (*kernel, 3, 4), out))


@pytest.mark.parametrize(("height", "width", "kernel", "stride", "padding"), CASES)
def test_convolution_and_its_gradients_are_those_of_lax(height, width, kernel, stride, padding, x64):
    x, w, g = arrays(height, width, kernel, stride, padding=padding)

    @jax.jit
    def both(x, w, g):
        wanted, pullback = jax.vjp(lambda x, w: reference(x, w, stride, padding), x, w)
        ours, our_pullback = jax.vjp(lambda x, w: conv(x, w, stride, padding), x, w)
        alone = (
            conv_input_grad(g, w, (height, width), stride, padding),
            conv_weight_grad(x, g, kernel, stride, padding),
        )
        return (wanted, *pullback(g)), (ours, *our_pullback(g)), (ours, *alone)

    theirs, *mine = both(x, w, g)
    for values in mine:
        for value, wanted in zip(values, theirs, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("height", "width", "kernel", "stride", "padding"), CASES[:3])
def test_second_derivatives_are_those_of_lax(height, width, kernel, stride, padding, x64):
    """Gradients of a function of the gradients, as in R1."""
    x, w, _ = arrays(height, width, kernel, stride)

    def second(convolution):
        value = lambda x, w: jnp.sum(jnp.sin(convolution(x, w, stride, padding)))

        def penalty(x, w):
            in_x, in_w = jax.grad(value, (0, 1))(x, w)
            return jnp.sum(in_x**2) + jnp.sum(in_w**2 * jnp.cos(in_w))

        return jax.jit(jax.grad(penalty, (0, 1)))(x, w)

    for mine, theirs in zip(second(conv), second(reference), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


def test_third_derivative_is_that_of_lax(x64):
    x, w, _ = arrays(3, 4, (3, 1))

    def third(convolution):
        first = jax.grad(lambda w: jnp.sum(jnp.sin(convolution(x, w, 1))))
        second = jax.grad(lambda w: jnp.sum(first(w) ** 2))
        return jax.jit(jax.grad(lambda w: jnp.sum(second(w) ** 2)))(w)

    np.testing.assert_allclose(third(conv), third(reference), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("over", "stride"), [("images", 1), ("kernels", 2), ("both", 2)])
def test_vmap(over, stride, x64):
    pairs = [arrays(5, 6, (3, 3), stride, seed)[:2] for seed in range(3)]
    x, w = (jnp.stack(leaf) for leaf in zip(*pairs, strict=True))
    axes = {"images": (0, None), "kernels": (None, 0), "both": (0, 0)}[over]
    args = tuple(a if axis == 0 else a[0] for a, axis in zip((x, w), axes, strict=True))

    def gradient(convolution):
        one = jax.value_and_grad(lambda x, w: jnp.sum(jnp.tanh(convolution(x, w, stride))), (0, 1))
        return jax.jit(jax.vmap(one, axes))(*args)

    ours, theirs = (jax.tree.leaves(gradient(c)) for c in (conv, reference))
    for mine, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-10, atol=1e-11)


def test_scan_over_stacked_kernels(x64):
    """The case that the operations exist for: depth as a loop, differentiated."""
    rng = np.random.default_rng(0)
    x, w = jnp.asarray(rng.standard_normal((2, 4, 5, 3))), jnp.asarray(rng.standard_normal((4, 3, 3, 3, 3)) / 5)

    def loss(convolution):
        def deep(x, w):
            h, _ = lax.scan(lambda h, w: (h + jnp.tanh(convolution(h, w, 1)), None), x, w)
            return jnp.sum(h**2)

        return deep

    ours, theirs = (jax.jit(jax.grad(loss(c), (0, 1)))(x, w) for c in (conv, reference))
    for mine, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-10)


def test_no_derivative_is_left_to_xla():
    """Gradients of any order are forward convolutions: none has a batch group or a transposed layout."""
    x, w, _ = arrays(4, 4, (3, 3))
    second = jax.grad(lambda x, w: jnp.sum(jax.grad(lambda w: jnp.sum(conv(x, w, 1) ** 2))(w) ** 2), (0, 1))
    text = str(jax.make_jaxpr(second)(x, w))
    assert "conv_general_dilated" in text
    assert "batch_group_count=1" in text and "batch_group_count=2" not in text
    assert "lhs_spec=(0, 3, 1, 2)" in text and text.count("lhs_spec=") == text.count("lhs_spec=(0, 3, 1, 2)")


def test_forward_mode_is_refused():
    x, w, _ = arrays(4, 4, (3, 3))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: conv(x, w, 1), (x,), (x,))


def test_bfloat16_is_float32_to_its_precision():
    x, w, g = (a.astype(jnp.bfloat16) for a in arrays(6, 6, (3, 3)))
    out, pullback = jax.vjp(lambda x, w: conv(x, w, 1), x, w)
    assert out.dtype == jnp.bfloat16
    exact, exact_pullback = jax.vjp(lambda x, w: reference(x, w, 1), *(a.astype(jnp.float32) for a in (x, w)))
    np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=0.02, atol=0.05)
    for mine, wanted in zip(pullback(g), exact_pullback(g.astype(jnp.float32)), strict=True):
        assert mine.dtype == jnp.bfloat16
        np.testing.assert_allclose(mine.astype(jnp.float32), wanted, rtol=0.02, atol=0.08)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [((1, 1), 1, None), ((3, 3), 2, None), ((3, 3), 2, 1)])
def test_layer_is_that_of_flax(kernel, stride, padding, key):
    x = jax.random.normal(key, (2, 5, 6, 3))
    ours = Conv(4, kernel, stride, padding=padding)
    theirs = nn.Conv(4, kernel, stride, padding="SAME" if padding is None else padding)
    variables = ours.init(key, x)
    for mine, wanted in zip(jax.tree.leaves(variables), jax.tree.leaves(theirs.init(key, x)), strict=True):
        np.testing.assert_array_equal(mine, wanted)
    variables = jax.tree.map(lambda a: a + 0.1, variables)
    np.testing.assert_allclose(ours.apply(variables, x), theirs.apply(variables, x), rtol=1e-5, atol=1e-5)


def test_layer_computes_in_its_dtype_on_float32_parameters(key):
    x = jax.random.normal(key, (1, 4, 4, 3))
    layer = Conv(4, dtype=jnp.bfloat16)
    variables = layer.init(key, x)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    assert layer.apply(variables, x).dtype == jnp.bfloat16
