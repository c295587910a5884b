"""Where training starts: the exact denoiser of independent pixels, and weights that are live at once."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from vdm_jax.config import base, check, choose
from vdm_jax.core.method import Context
from vdm_jax.diffusion import baseline
from vdm_jax.diffusion.process import VP, noise
from vdm_jax.errors import UserError
from vdm_jax.keys import example_keys
from vdm_jax.methods import build
from vdm_jax.networks.initial import high_pass, original, pass_first, smooth_in_time, structured
from vdm_jax.networks.layers import damping, fourier_features, timestep_embedding
from vdm_jax.networks.vdm_unet import VDMUNet


def config(**model):
    c = base()
    c.data.shape, c.data.vocabulary = (8, 8, 1), 0
    choose(c, {"model.residual": "pixel"} | {f"model.{name}": value for name, value in model.items()})
    c.model.update(width=8, depth=1, groups=4)
    check(c)
    return c


def untrained_terms(c, image):
    """Mean terms of the training bound in bits/dim before any step, times stratified over all images."""
    method = build(c)
    params = jax.jit(method.init)(jax.random.key(0))
    index = jnp.arange(len(image))
    context = Context(example_keys(jax.random.key(1), index), jax.random.key(2), index, len(image))
    batch = {"x": jnp.asarray(image), "cond": {"augmented": jnp.zeros(len(image))}}
    _, aux = jax.jit(lambda params, batch: method.phases[0].loss(params, (), batch, context))(params, batch)
    return {name: float(jnp.mean(value)) for name, value in aux.items()}


def level(gamma):
    return noise(jnp.full(1, gamma), jnp.zeros(1), VP)


def test_untrained_bound_of_gaussian_pixels_is_its_closed_form():
    """½ ∫ E‖ε − ε̂‖² dγ = ½ ln((1 + s² e^{−γ₀})/(1 + s² e^{−γ₁})) for ε̂ = E[ε|z] of x ~ N(0, s²)."""
    variance, gamma_0, gamma_1 = 0.25, -13.3, 5.0
    gammas = jnp.linspace(gamma_0, gamma_1, 4001)
    at = noise(gammas, jnp.zeros_like(gammas), VP)
    # E[(ε − c z)²] with E[εz] = σ, E[z²] = σ² + α² s²
    gain = baseline.gaussian_eps(jnp.ones((4001, 1)), at, variance)[:, 0]
    second = jnp.square(at.sigma) + jnp.square(at.alpha) * variance
    error = 1 - 2 * gain * at.sigma + jnp.square(gain) * second
    nats = 0.5 * math.log((1 + variance * math.exp(-gamma_0)) / (1 + variance * math.exp(-gamma_1)))
    assert_allclose(0.5 * jnp.trapezoid(error, gammas), nats, rtol=1e-5)
    assert_allclose(jnp.square(baseline.unexplained(at, variance)), error, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_untrained_network_codes_independent_bytes_at_their_entropy():
    deviation, vocabulary = 0.2, 256
    c = config(data_variance=deviation**2, initial="structured")
    c.data.vocabulary = vocabulary
    draws = deviation * np.random.default_rng(0).normal(size=(1024, 8, 8, 1))
    image = np.clip(np.round(vocabulary * (draws + 1) / 2 - 0.5), 0, vocabulary - 1).astype(np.uint8)
    # a density on bins of width 2/V: log₂(V/2) + h(N(0, s²))
    entropy = math.log2(vocabulary / 2) + 0.5 * math.log2(2 * math.pi * math.e * deviation**2)
    assert_allclose(untrained_terms(c, image)["bits_per_dim"], entropy, rtol=0.015)


@pytest.mark.parametrize("vocabulary, variance", [(256, 0.25), (17, 0.55), (4, 0.3)])
@pytest.mark.parametrize("gamma", [-15.0, -13.3, -12.0, -11.0, -9.9, -7.0, -4.0, -1.0, 3.0])
def test_pixel_eps_is_the_posterior_mean_over_the_lattice(gamma, vocabulary, variance):
    rng = np.random.default_rng(0)
    at = level(gamma)
    alpha, sigma = float(at.alpha[0]), float(at.sigma[0])
    centers = 2 * (np.arange(-4 * vocabulary, 5 * vocabulary) + 0.5) / vocabulary - 1
    inside = centers[np.abs(centers) < 1]
    z = alpha * rng.choice(inside, (1, 200)) + sigma * rng.normal(size=(1, 200))
    logits = -0.5 * np.square((z[..., None] - alpha * centers) / sigma) - 0.5 * np.square(centers) / variance
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    mean = (weights * centers).sum(-1) / weights.sum(-1)
    eps = (z - alpha * mean) / sigma
    got = baseline.pixel_eps(jnp.asarray(z, jnp.float32), at, variance, vocabulary)
    # float32 knows z to 3e-8, which is 5e-5 of the noise at γ = −15
    assert_allclose(got, eps, atol=1e-3)


def random_params(net, channels):
    """Parameters of a network for 4 × 4 images with nothing at zero; the shapes alone, nothing compiled."""
    z = jnp.zeros((1, 4, 4, channels))
    shapes = jax.eval_shape(net.init, jax.random.key(0), z, jnp.zeros(1), {})
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(0.3 * rng.normal(size=a.shape), a.dtype), shapes)


@pytest.mark.slow
def test_residual_and_damping_change_what_they_say(key):
    """+ z at the end; and at σ = 0.1 nothing is left of a damped network's Fourier features."""
    z, t, sigma = jax.random.normal(key, (2, 4, 4, 1)), jnp.array([0.2, 0.7]), jnp.full(2, 0.1)
    plain, damped = VDMUNet(8, 1, groups=4), VDMUNet(8, 1, groups=4, residual=False, damped=True)
    params = random_params(plain, 1)["params"]
    kernel = params["conv_in"]["kernel"].at[:, :, 1:].set(0)
    blind = {**params, "conv_in": {**params["conv_in"], "kernel": kernel}}
    first, second = (
        jax.jit(lambda params, net=net: net.apply({"params": params}, z, t, {}, None, sigma)) for net in (plain, damped)
    )
    assert_allclose(first(blind) - second(blind), z, atol=1e-5)
    assert_allclose(second(params), second(blind), atol=1e-5)
    assert jnp.max(jnp.abs(first(params) - first(blind))) > 0.1


def test_fourier_features_keep_what_noise_leaves_of_them(key):
    """E[e^{i2ⁿπz}|x] = e^{i2ⁿπx} e^{−½(2ⁿπσ)²} for z = x + σ ε, by the mean over draws of the noise."""
    sigma, x = jnp.array([0.001, 0.003, 0.01]), jnp.array([0.31])
    eps = jax.random.normal(key, (3, 100_000, 1))
    noisy = fourier_features(x.reshape(1, 1, 1) + sigma[:, None, None] * eps, (7, 8)).mean(1)
    assert_allclose(noisy, fourier_features(x, (7, 8))[None] * damping(sigma, (7, 8), 1), atol=0.01)


def test_structured_weights_fill_the_original_tree():
    like = lambda initial: jax.eval_shape(
        VDMUNet(32, 2, initial=initial).init,
        jax.random.key(0),
        jnp.zeros((1, 8, 8, 3)),
        jnp.zeros(1),
        {},
    )
    assert like(original()) == like(structured(2, 3))


def test_branches_of_all_blocks_add_up_to_one_layer(key):
    """conv2 starts at Lecun's deviation over √(2L + 3); the original's branches and conditioning start dead."""
    kernel = structured(2, 3).conv2(key, (3, 3, 32, 64))
    assert_allclose(jnp.mean(jnp.square(kernel)) * 9 * 32 * 7, 1, rtol=0.05)
    assert not jnp.any(original().conv2(key, (3, 3, 32, 64))) and not jnp.any(original().cond_proj(key, (128, 32)))


def test_high_pass_channels_are_blind_to_brightness_and_to_fourier_features(key):
    kernel = high_pass(3)(key, (3, 3, 15, 8))
    first, rest = kernel[..., :4], kernel[..., 4:]
    assert_allclose(first.sum((0, 1)), 0, atol=1e-6)
    assert not jnp.any(first[:, :, 3:])
    assert_allclose(jnp.square(first).sum((0, 1, 2)), 1, rtol=1e-5)
    assert jnp.all(jnp.std(rest, axis=(0, 1, 3)) > 0)


def test_stream_passes_the_up_blocks(key):
    h, skip = jax.random.normal(key, (2, 5, 4))
    kernel = pass_first()(key, (8, 4))
    assert_allclose(jnp.concatenate([h, skip], -1) @ kernel, h)


def test_time_features_of_close_levels_are_close(key):
    t = jnp.linspace(0, 1, 1001)
    rows = jnp.concatenate([timestep_embedding(t, 64), jnp.zeros((1001, 1))], -1)
    jumps = []
    for init in (original().dense0, smooth_in_time()):
        features = rows @ init(key, (65, 256))
        jumps.append(jnp.sum(jnp.square(jnp.diff(features[::10], axis=0))) / jnp.sum(jnp.var(features, axis=0)) / 100)
    # two independent draws differ by twice their variance; levels 0.01 apart are nearly that, or hardly
    assert jumps[0] > 0.5
    assert jumps[1] < 0.1


@pytest.mark.parametrize("change", [{"prediction": "v"}, {"network": "mlp"}])
def test_pixel_residual_is_for_eps_of_images(change):
    changes = {"model.residual": "pixel"} | {f"model.{name}": value for name, value in change.items()}
    with pytest.raises(UserError, match=r"model\.residual"):
        check(choose(base(), changes))
