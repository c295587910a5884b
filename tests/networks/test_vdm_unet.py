from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.networks.encoders import Feature
from vdm_jax.networks.layers import Attention, GroupNorm, dropout, fold, fourier_features, timestep_embedding
from vdm_jax.networks.mlp import MLP
from vdm_jax.networks.vdm_unet import VDMUNet

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in half the time

BIT = (Feature("augmented"),)
SMALL = {"width": 8, "depth": 2, "fourier": (3, 4), "groups": 4, "attention": True, "encoders": BIT}


def inputs(key, batch=2, shape=(4, 4, 3)):
    z_key, t_key = jax.random.split(key)
    cond = {"augmented": jnp.linspace(0, 1, batch)}
    return jax.random.normal(z_key, (batch, *shape)), jax.random.uniform(t_key, (batch,)), cond


def random_params(net, *args):
    """Parameters with no zero left: zero-initialized layers hide mistakes."""
    rng = np.random.default_rng(0)
    scale = lambda shape: np.prod(shape[:-1]) ** -0.5 if len(shape) > 1 else 0.3
    draw = lambda s: jnp.asarray(scale(s.shape) * rng.standard_normal(s.shape), jnp.float32)
    return jax.tree.map(draw, jax.eval_shape(net.init, jax.random.key(0), *args))


def count(net, channels=3):
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, channels)), jnp.zeros(1), {})
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def by_hand(n, depth, channels, attention, fourier=2):
    """Parameters of the original's layers, counted one by one."""
    conv = lambda i, o, k=3: k * k * i * o + o
    norm, dense = lambda c: 2 * c, lambda i, o: i * o + o
    block = lambda i: norm(i) + conv(i, n) + 4 * n * n + norm(n) + conv(n, n) + (dense(i, n) if i != n else 0)
    attend = norm(n) + 4 * dense(n, n)
    embed = dense(n + 1, 4 * n) + dense(4 * n, 4 * n)
    ends = conv(channels * (1 + 2 * fourier), n) + norm(n) + conv(n, channels)
    blocks = (depth + 2) * block(n) + (depth + 1) * block(2 * n)
    return embed + ends + blocks + attend * (1 + (2 * depth + 1) * attention)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize(("width", "depth", "channels"), [(32, 3, 1), (64, 2, 3)])
def test_parameters_are_those_of_the_layers(width, depth, channels, attention):
    net = VDMUNet(width, depth, attention=attention)
    assert count(net, channels) == by_hand(width, depth, channels, attention)


@pytest.mark.parametrize(
    ("width", "depth", "attention", "schedule", "total"),
    [
        (128, 32, False, 2, 30_578_181),  # CIFAR-10
        (256, 32, False, 2, 122_137_605),  # ImageNet 32
        (256, 64, False, 2, 237_603_845),  # ImageNet 64
        (256, 32, True, 3074, 139_279_877),  # CIFAR-10 with augmentation, monotone schedule
    ],
)
def test_parameters_of_the_paper(width, depth, attention, schedule, total):
    assert count(VDMUNet(width, depth, attention=attention)) + schedule == total


@pytest.mark.slow
def test_initial_output_is_z(key):
    z, t, cond = inputs(key)
    net = VDMUNet(**SMALL)
    np.testing.assert_array_equal(jit(net.apply)(jit(net.init)(key, z, t, cond), z, t, cond), z)
    mlp = MLP(16, 2)
    points = jax.random.normal(key, (3, 2))
    variables = jit(mlp.init)(key, points, t[:1].repeat(3), {})
    np.testing.assert_array_equal(jit(mlp.apply)(variables, points, t[:1].repeat(3), {}), points)


@pytest.mark.slow
def test_output_depends_on_time_conditioning_and_every_pixel(key):
    z, t, cond = inputs(key, shape=(3, 3, 1))
    net = VDMUNet(**SMALL)
    params = random_params(net, z, t, cond)
    apply = jit(net.apply)
    out = apply(params, z, t, cond)
    for changed in ((z, t + 0.01, cond), (z, t, {"augmented": cond["augmented"] + 1})):
        assert np.abs(apply(params, *changed) - out).min() > 0
    corner = jit(jax.grad(lambda z: net.apply(params, z, t, cond)[0, 0, 0, 0]))(z)
    assert np.all(corner[0] != 0) and np.all(corner[1] == 0)  # attention reaches all; examples do not mix


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "convs"])
def test_remat_and_unroll_change_nothing_but_the_program(remat, key):
    z, t, cond = inputs(key, shape=(3, 3, 1))
    keys = jax.random.split(key, 2)
    settings = {**SMALL, "attention": False, "dropout_rate": 0.3}
    nets = VDMUNet(**settings), VDMUNet(**settings, remat=remat, unroll=2)
    plain, other = jit(lambda: [net.init(key, z, t, cond) for net in nets])()
    jax.tree.map(np.testing.assert_array_equal, other, plain)
    params = random_params(nets[0], z, t, cond)
    loss = lambda net: lambda p: jnp.sum(jnp.sin(net.apply(p, z, t, cond, keys)))
    (value, gradient), (other, other_gradient) = (jit(jax.value_and_grad(loss(net)))(params) for net in nets)
    np.testing.assert_allclose(other, value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), other_gradient, gradient)


@pytest.mark.slow
def test_bfloat16_computes_nearly_the_same_on_the_same_parameters(key):
    z, t, cond = inputs(key)
    exact, half = VDMUNet(**SMALL), VDMUNet(**SMALL, dtype=jnp.bfloat16)
    start, half_start = jit(lambda: [net.init(key, z, t, cond) for net in (exact, half)])()
    jax.tree.map(np.testing.assert_array_equal, half_start, start)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half_start)} == {"float32"}
    params = random_params(exact, z, t, cond)
    out, half_out = (jit(net.apply)(params, z, t, cond) for net in (exact, half))
    assert half_out.dtype == jnp.float32  # the residual of z is not rounded
    difference = np.abs(half_out - out)
    assert 0 < difference.mean() < 0.05 * np.abs(out - z).mean()


def test_compiled_size_does_not_grow_with_depth():
    z = jnp.zeros((1, 4, 4, 1))

    def lines(depth):
        net = VDMUNet(8, depth, groups=4)
        params = jax.eval_shape(net.init, jax.random.key(0), z, jnp.zeros(1), {})
        return len(jit(net.apply).lower(params, z, jnp.zeros(1), {}).as_text().splitlines())

    assert lines(12) == lines(3)


def test_timestep_embedding_is_sines_then_cosines_of_1000_t():
    t = np.array([0.0, 0.25, 1.0], np.float32)
    out = timestep_embedding(jnp.asarray(t), 8)
    frequencies = np.array([1, 10 ** (-4 / 3), 10 ** (-8 / 3), 1e-4])
    angles = 1000 * t.astype(np.float64)[:, None] * frequencies[None, :]
    np.testing.assert_allclose(out, np.concatenate([np.sin(angles), np.cos(angles)], 1), atol=2e-4)
    np.testing.assert_array_equal(out[0], [0, 0, 0, 0, 1, 1, 1, 1])


def test_fourier_features_of_two_channels_in_their_order():
    z = np.array([[0.1, -0.3]], np.float32)
    out = np.asarray(fourier_features(jnp.asarray(z), (0, 2)))[0]
    angles = np.array([np.pi * 0.1, 4 * np.pi * 0.1, -np.pi * 0.3, -4 * np.pi * 0.3])
    np.testing.assert_allclose(out, np.concatenate([np.sin(angles), np.cos(angles)]), atol=1e-6)


@pytest.mark.parametrize(("vocabulary", "exponents"), [(256, (7, 8)), (16, (3, 4))])
def test_fourier_features_turn_by_pi_and_two_pi_per_level(vocabulary, exponents, key):
    """On the bin centers the slow feature is sin = ±1, cos = 0, the fast one sin = 0, cos = −1."""
    centers = 2 * (jnp.arange(float(vocabulary)) + 0.5) / vocabulary - 1
    slow_sin, fast_sin, slow_cos, fast_cos = fourier_features(centers.reshape(-1, 1), exponents).T
    np.testing.assert_allclose(np.abs(slow_sin), 1, atol=1e-4)
    np.testing.assert_allclose(slow_sin[1:], -slow_sin[:-1], atol=1e-4)
    np.testing.assert_allclose(slow_cos, 0, atol=1e-3)
    np.testing.assert_allclose(fast_sin, 0, atol=1e-3)
    np.testing.assert_allclose(fast_cos, -1, atol=1e-4)


def test_dropout_is_keyed_by_example(key):
    x, keys = jnp.ones((6, 40, 50)), jax.random.split(key, 6)
    whole = dropout(x, 0.2, keys)
    np.testing.assert_array_equal(dropout(x[2:5], 0.2, keys[2:5]), whole[2:5])
    np.testing.assert_allclose(np.unique(whole), [0, 1.25], rtol=1e-6)
    np.testing.assert_allclose(whole.mean(), 1, atol=0.02)
    assert np.any(whole[0] != whole[1])
    assert dropout(x, 0.2, None) is x and dropout(x, 0.0, keys) is x
    assert fold(None, 3) is None and np.any(dropout(x, 0.2, fold(keys, 1)) != whole)


@pytest.mark.slow
def test_masks_do_not_depend_on_the_split_of_the_batch(key):
    """And they differ between layers: each block folds its number into the keys."""
    z, t, cond = inputs(key, batch=4)
    net, keys = VDMUNet(**SMALL, dropout_rate=0.5), jax.random.split(key, 4)
    params = random_params(net, z, t, cond)
    apply = jit(net.apply)
    whole = apply(params, z, t, cond, keys)
    part = lambda s: jax.tree.map(lambda a: a[s], (z, t, cond, keys))
    halves = [apply(params, *part(s)) for s in (slice(0, 2), slice(2, 4))]
    np.testing.assert_allclose(np.concatenate(halves), whole, rtol=1e-4, atol=1e-5)
    assert np.abs(whole - apply(params, z, t, cond)).max() > 0.01
    assert np.abs(whole - apply(params, z, t, cond, keys[::-1])).max() > 0.01


def test_attention_is_softmax_of_scaled_products(key):
    x = jax.random.normal(key, (2, 3, 2, 8))
    layer = Attention(heads=2, groups=4)
    params = random_params(layer, x)
    out = np.asarray(layer.apply(params, x), np.float64)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
    h = np.asarray(x, np.float64).reshape(2, 6, 4, 2)
    h = (h - h.mean((1, 3), keepdims=True)) / np.sqrt(h.var((1, 3), keepdims=True) + 1e-6)
    h = h.reshape(2, 6, 8) * p["norm"]["scale"] + p["norm"]["bias"]
    q, k, v = ((h @ p[n]["kernel"] + p[n]["bias"]).reshape(2, 6, 2, 4) for n in ("q", "k", "v"))
    weights = np.exp(np.einsum("bqhc,bkhc->bhqk", q, k) / 2)
    mixed = np.einsum("bhqk,bkhc->bqhc", weights / weights.sum(-1, keepdims=True), v).reshape(2, 6, 8)
    wanted = np.asarray(x) + (mixed @ p["proj_out"]["kernel"] + p["proj_out"]["bias"]).reshape(x.shape)
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 5, 4, 12), (2, 7, 8)])
def test_group_norm_is_flax_s_without_its_reshape(shape, key):
    x = 3 * jax.random.normal(key, shape) + jnp.arange(shape[-1], dtype=jnp.float32).reshape(
        (1,) * (len(shape) - 1) + (-1,)
    )
    ours, theirs = GroupNorm(4), nn.GroupNorm(4)
    rng = np.random.default_rng(0)
    params = {"params": {k: jnp.asarray(rng.normal(size=shape[-1]), jnp.float32) for k in ("scale", "bias")}}
    started = [jax.tree.structure(jax.eval_shape(norm.init, key, x)) for norm in (ours, theirs)]
    assert started[0] == started[1]
    weights = jnp.asarray(rng.normal(size=shape), jnp.float32)
    both = [
        jit(jax.value_and_grad(lambda p, x, n=n: jnp.sum(weights * n.apply(p, x)), (0, 1)))(params, x)
        for n in (ours, theirs)
    ]
    np.testing.assert_allclose(jit(ours.apply)(params, x), jit(theirs.apply)(params, x), rtol=2e-5, atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), *both)
    y = ours.apply({"params": {"scale": jnp.ones(shape[-1]), "bias": jnp.zeros(shape[-1])}}, x)
    groups = np.asarray(y).reshape(shape[0], -1, 4, shape[-1] // 4)
    np.testing.assert_allclose(groups.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(groups.var((1, 3)), 1, rtol=1e-3)
