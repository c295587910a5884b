"""The U-Net that resamples: sizes of the published ones, and what must not change its function.

That it computes what the originals compute is in tests/convert, through the readers of their weights.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.networks import families
from vdm_jax.networks.encoder import frequencies
from vdm_jax.networks.encoders import examples
from vdm_jax.networks.multiscale import UNet

# One level compiles in half the time of two; what only two have is compiled where it matters.
TINY = {"width": 8, "multipliers": (1,), "depth": 1, "attention_at": (4,), "groups": 4}
IMPROVED = families.settings("improved", **TINY, num_classes=5, outputs=2)
NCSNPP = families.settings("ncsnpp", **TINY | {"dropout_rate": 0.3, "attention_at": ()})
TWO_LEVELS = replace(NCSNPP, multipliers=(1, 1))


def abstract(s, shape=(4, 4, 3)):
    z = jnp.zeros((1, *shape))
    return jax.eval_shape(UNet(s).init, jax.random.key(0), z, jnp.zeros(1), examples(s.encoders, z))


def random_params(s, shape=(4, 4, 3)):
    """Parameters with no zero left: zero-initialized layers hide mistakes."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return jnp.asarray(rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[-4:-1])), jnp.float32)
        return jnp.asarray((path[-1].key == "scale") + 0.3 * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract(s, shape))


def inputs(batch=2, shape=(4, 4, 3)):
    rng = np.random.default_rng(1)
    z = jnp.asarray(rng.standard_normal((batch, *shape)), jnp.float32)
    return z, jnp.linspace(-1.3, 1.7, batch), {"label": jnp.arange(batch)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "size", "total", "other"),
    [
        # Improved DDPM: CIFAR-10, ImageNet 64, the same with classes, LSUN
        ("improved", 32, 52_546_438, {}),
        ("improved", 64, 121_063_942, {"multipliers": (1, 2, 3, 4)}),
        ("improved", 64, 273_049_350, {"multipliers": (1, 2, 3, 4), "width": 192, "num_classes": 1000}),
        (
            "improved",
            256,
            113_676_678,
            {"multipliers": (1, 1, 2, 2, 4, 4), "depth": 2, "heads": 1, "scale_shift": False, "attention_at": (16,)},
        ),
        # DDPM: CIFAR-10, the same as score_sde has it
        ("ddpm", 32, 35_746_307, {}),
        ("ddpm", 32, 35_218_947, {"attention_up": "level"}),
        # score_sde's CIFAR-10: DDPM++ and NCSN++, deep; NCSN++ under VP; CelebA-HQ 256
        ("ddpmpp", 32, 61_804_419, {}),
        ("ddpmpp", 32, 106_632_579, {"depth": 8}),
        ("ncsnpp", 32, 62_758_915, {}),
        ("ncsnpp", 32, 107_587_075, {"depth": 8}),
        ("ncsnpp", 32, 62_693_251, {"embedding": "ddpm", "scale_by_sigma": False}),
        (
            "ncsnpp",
            256,
            65_574_549,
            {"multipliers": (1, 1, 2, 2, 2, 2, 2), "depth": 2, "pyramid_in": "skip", "pyramid_out": "skip"},
        ),
    ],
)
def test_parameters_of_the_published_networks(family, size, total, other):
    s = families.settings(family, **{"outputs": 2 if family == "improved" else 1} | other)
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract(s, (size, size, 3)))) == total


@pytest.mark.parametrize(
    "s",
    [pytest.param(s, marks=pytest.mark.slow) for s in (replace(IMPROVED, depth=3, attention_at=()), TWO_LEVELS)],
    ids=["stacked", "pyramid"],
)
def test_how_it_is_computed_changes_neither_parameters_nor_their_initial_values(s):
    key = jax.random.key(0, impl="rbg")
    other = replace(s, remat="convs", unroll=2, dtype=jnp.bfloat16)
    plain, changed = jax.jit(lambda: [UNet(way).init(key, *inputs()) for way in (s, other)])()
    jax.tree.map(np.testing.assert_array_equal, changed, plain)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(changed)} == {"float32"}


STACKED = replace(NCSNPP, depth=3)


def gradient(s, params):
    loss = lambda p: jnp.sum(jnp.sin(UNet(s).apply(p, *inputs())))
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert not np.any(gradient["params"].pop("frequencies"))  # fixed, though a leaf
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    return value, gradient


@pytest.fixture(scope="module")
def plain_gradient():
    return gradient(STACKED, random_params(STACKED))


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "convs"])
def test_remat_and_unroll_change_no_gradient(remat, plain_gradient):
    other = gradient(replace(STACKED, remat=remat, unroll=2), random_params(STACKED))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), other, plain_gradient)


@pytest.mark.slow
def test_bfloat16_computes_nearly_the_same_on_the_same_parameters():
    params = random_params(IMPROVED)
    ways = IMPROVED, replace(IMPROVED, dtype=jnp.bfloat16)
    out, half = jax.jit(lambda p: [UNet(s).apply(p, *inputs()) for s in ways])(params)
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - out).mean() < 0.05 * np.abs(out).mean()


@pytest.mark.slow
def test_masks_of_dropout_do_not_depend_on_the_split_of_the_batch():
    params, (z, t, _), keys = random_params(NCSNPP), inputs(4), jax.random.split(jax.random.key(1), 4)
    apply = jax.jit(UNet(NCSNPP).apply)
    whole = apply(params, z, t, {}, keys)
    halves = [apply(params, z[s], t[s], {}, keys[s]) for s in (slice(0, 2), slice(2, 4))]
    np.testing.assert_allclose(np.concatenate(halves), whole, rtol=1e-4, atol=1e-4)
    assert np.abs(whole - apply(params, z, t, {}, keys[::-1])).max() > 0.01


@pytest.mark.slow
def test_every_part_draws_masks_of_its_own():
    """Two blocks with the same key would drop the same units."""
    s, keys = replace(TWO_LEVELS, depth=2), jax.random.split(jax.random.key(1), 1)
    params, seen = random_params(s), []
    original = jax.random.bernoulli

    def spy(key, *args, **kwargs):
        jax.debug.callback(lambda data: seen.append(tuple(np.ravel(data).tolist())), jax.random.key_data(key))
        return original(key, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "bernoulli", spy)
        jax.block_until_ready(jax.jit(UNet(s).apply)(params, *inputs(1), keys))
        jax.effects_barrier()
    blocks = 2 * 2 + 2 * 3 + 2 + 2  # down, up, middle, between
    assert len(seen) == blocks and len(set(seen)) == blocks


@pytest.mark.slow
def test_output_depends_on_time_class_and_every_pixel_of_its_example():
    z, t, cond = inputs()
    params = random_params(IMPROVED)

    @jax.jit
    def both(z, t, cond):
        return UNet(IMPROVED).apply(params, z, t, cond), jax.grad(
            lambda z: UNet(IMPROVED).apply(params, z, t, cond)[0, 0, 0, 0]
        )(z)

    out, corner = both(z, t, cond)
    assert out.shape == (2, 4, 4, 6)
    assert np.all(corner[0] != 0) and np.all(corner[1] == 0)  # attention reaches all; examples do not mix
    for changed in ((z, t + 0.01, cond), (z, t, {"label": cond["label"] + 1})):
        assert np.abs(both(*changed)[0] - out).min() > 0


@pytest.mark.slow
def test_output_before_training_is_zero():
    s = replace(IMPROVED, attention_at=())
    out, params = jax.jit(lambda: UNet(s).init_with_output(jax.random.key(0, impl="rbg"), *inputs()))()
    assert not np.any(out) and np.any(params["params"]["conv_in"]["bias"])  # PyTorch's biases are not


def test_compiled_size_does_not_grow_with_depth():
    def lines(depth):
        s = replace(TWO_LEVELS, depth=depth)
        return len(jax.jit(UNet(s).apply).lower(abstract(s), *inputs()).as_text().splitlines())

    assert lines(12) == lines(3)


def test_frequencies_end_at_ten_thousand_or_just_before():
    """Ho et al. divide by n − 1, Nichol and Dhariwal by n."""
    np.testing.assert_allclose(frequencies("ddpm", 8), [1, 10 ** (-4 / 3), 10 ** (-8 / 3), 1e-4], rtol=1e-6)
    np.testing.assert_allclose(frequencies("improved", 8), [1, 0.1, 0.01, 0.001], rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "other", "message"),
    [
        ("adn", {}, "family='adn' is none of ddpm, improved, adm"),
        ("adm", {"heads": 4}, "heads=4 and head_channels=64 both set the number of heads"),
        ("ddpm", {"widht": 3}, "'widht' is not a setting"),
        ("ddpm", {"remat": "some"}, "remat='some' is none of none, full, convs"),
        ("ddpmpp", {"scale_by_sigma": True}, "needs embedding='fourier'"),
        ("ddpm", {"fir": True}, "needs resample='block'"),
    ],
)
def test_settings_that_make_no_network_are_refused(family, other, message):
    with pytest.raises(ValueError, match=message):
        families.settings(family, **other)


@pytest.mark.parametrize(
    ("shape", "other", "message"),
    [
        ((6, 5, 3), {"multipliers": (1, 2)}, "6 × 5 pixels must divide by 2"),
        ((4, 4, 3), {"multipliers": (1, 1.3)}, "times each of multipliers"),
        ((4, 4, 3), {"groups": 3}, "groups=3 do not divide a norm's"),
        ((4, 4, 3), {"heads": 3}, "heads=3 do not divide the 8 channels"),
        ((4, 4, 3), {"heads": 1, "head_channels": 3}, "head_channels=3 do not divide the 8 channels"),
    ],
)
def test_settings_that_do_not_suit_the_images_are_refused_before_compiling(shape, other, message):
    with pytest.raises(ValueError, match=message):
        abstract(replace(IMPROVED, **other), shape)
