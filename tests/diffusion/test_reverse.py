"""Reverse steps and the bound's terms: closed forms, identities with VDM's loss, and the originals' numbers."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from vdm_jax.diffusion import decoders, losses, prediction, process, reverse, samplers, tables

GOLDEN = np.load(pathlib.Path(__file__).parent / "goldens" / "improved_diffusion.npz")
CASES = {"lin": ("linear", 200), "cos": ("cosine", 4000), "sections": ("cosine", 1000)}
VARIANCES = {"FIXED_LARGE": "beta", "FIXED_SMALL": "posterior", "LEARNED_RANGE": "learned"}


def chain(name: str) -> tuple[tables.Table, samplers.Transition]:
    """The golden's respaced chain and its steps at the golden's levels."""
    kind, levels = CASES[name]
    betas = tables.linear_betas(levels) if kind == "linear" else tables.cosine_betas(levels)
    table = tables.from_betas(tables.merge(betas, GOLDEN[f"{name}|map"]))
    return table, table.at(jnp.asarray(GOLDEN[f"{name}|t"]))


def predicted(name: str, learned: bool, clip: float | None) -> tuple[Array, Array, prediction.Prediction]:
    """(z, ε, prediction) of the golden's fixed network output."""
    _, step = chain(name)
    f = decoders.encode_to_ends(jnp.asarray(GOLDEN["x"]), 256)
    eps = jnp.asarray(GOLDEN["noise"])
    z = process.q_sample(f, eps, step.frm)
    raw = jnp.asarray(GOLDEN["raw"] if learned else GOLDEN["raw"][..., :3])
    found = prediction.split(raw, z, step.frm)
    return z, eps, found if clip is None else prediction.clipped(found, z, step.frm, clip)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", VARIANCES)
def test_moments_are_the_originals(name: str, kind: str, x64: None) -> None:
    _, step = chain(name)
    for clip in (True, False):
        z, _, found = predicted(name, kind == "LEARNED_RANGE", 1.0 if clip else None)
        np.testing.assert_allclose(z, GOLDEN[f"{name}|z"], rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(found.x, GOLDEN[f"{name}|x_{clip}"], rtol=1e-8, atol=1e-8)
        mean, log_variance = reverse.moments(z, found, step, VARIANCES[kind])
        np.testing.assert_allclose(mean, GOLDEN[f"{name}|{kind}|mean_{clip}"], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(log_variance, GOLDEN[f"{name}|{kind}|log_variance"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", VARIANCES)
def test_the_four_losses_are_the_originals(name: str, kind: str, x64: None) -> None:
    table, step = chain(name)
    z, eps, found = predicted(name, kind == "LEARNED_RANGE", None)
    decoder = reverse.discretized(jnp.asarray(GOLDEN["x"]), 256, "tanh")
    nats = reverse.bound_term(decoder, z, eps, found, step, VARIANCES[kind])
    vlb = losses.bits_per_dim(nats, z[0].size)
    mse = losses.error_per_dim(losses.squared_error(eps, found.eps), z)
    learned = vlb if kind == "LEARNED_RANGE" else 0
    ours = {
        "KL": vlb,
        "RESCALED_KL": table.num_levels * vlb,
        "MSE": mse + learned,
        "RESCALED_MSE": mse + 0.001 * table.num_levels * learned,
    }
    for loss, value in ours.items():
        np.testing.assert_allclose(value, GOLDEN[f"{name}|{kind}|{loss}"], rtol=1e-7, err_msg=loss)


def injected(monkeypatch: pytest.MonkeyPatch, noise: np.ndarray) -> None:
    """All samplers' noise is this."""
    for module in (samplers, reverse):
        monkeypatch.setattr(module, "normal", lambda keys, z: jnp.asarray(noise, z.dtype))


@pytest.mark.parametrize("name", CASES)
def test_sampler_steps_are_the_originals(name: str, x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    injected(monkeypatch, GOLDEN["noise2"])
    _, step = chain(name)
    keys = jax.random.split(jax.random.key(0), 4)
    for kind, variance in VARIANCES.items():
        z, _, found = predicted(name, kind == "LEARNED_RANGE", 1.0)
        sample = reverse.ancestral(lambda z, level: found, variance)(keys, z, step)  # noqa: B023
        np.testing.assert_allclose(sample, GOLDEN[f"{name}|{kind}|p_sample"], rtol=1e-8, atol=1e-8)
    z, _, found = predicted(name, False, 1.0)
    for eta in (0.0, 0.5, 1.0):
        sample = samplers.ddim(lambda z, level: found, eta)(keys, z, step)
        np.testing.assert_allclose(sample, GOLDEN[f"{name}|ddim_{eta}"], rtol=1e-8, atol=1e-8)


def test_bits_per_dim_loop_is_the_originals(x64: None) -> None:
    x = jnp.asarray(GOLDEN["x"])
    f, size = decoders.encode_to_ends(x, 256), x[0].size
    betas = GOLDEN["bpd|betas"]
    table = tables.from_betas(betas, np.arange(6) * 1000 / 6)
    total = losses.bits_per_dim(losses.prior(f, table.gamma[-1]), size)
    np.testing.assert_allclose(total, GOLDEN["bpd|prior_bpd"], rtol=1e-9)
    for number, index in enumerate(range(5, -1, -1)):  # the original goes down from the last level
        step = table.at(jnp.full(4, index))
        np.testing.assert_allclose(step.frm.t, GOLDEN["bpd|told"][index], rtol=1e-6)
        eps = jnp.asarray(GOLDEN["bpd|noises"][number])
        z = process.q_sample(f, eps, step.frm)
        s = step.frm.t.reshape(-1, 1, 1, 1) / 1000
        raw = jnp.concatenate([jnp.sin(2 * z + 3 * s), 0.9 * jnp.cos(z - s)], axis=-1)
        found = prediction.clipped(prediction.split(raw, z, step.frm), z, step.frm)
        nats = reverse.bound_term(reverse.discretized(x, 256, "tanh"), z, eps, found, step, "learned")
        # the original keeps its terms in the order of its loop
        np.testing.assert_allclose(losses.bits_per_dim(nats, size), GOLDEN["bpd|vb"][:, number], rtol=1e-5)
        error = losses.error_per_dim(losses.squared_error(eps, found.eps), z)
        np.testing.assert_allclose(error, GOLDEN["bpd|mse"][:, number], rtol=1e-5)
        total += losses.bits_per_dim(nats, size)
    np.testing.assert_allclose(total, GOLDEN["bpd|total_bpd"], rtol=1e-6)


def test_kl_with_the_posterior_variance_is_vdms_weight(x64: None) -> None:
    """KL(q ‖ p) at Σ = β̃ is ½ expm1(γ_t − γ_s) ‖ε − ε̂‖² (VDM eq. 14): one loss, two forms."""
    table = tables.from_betas(tables.cosine_betas(60))
    index = jnp.array([1, 7, 30, 58])
    step = table.at(index)
    keys = jax.random.split(jax.random.key(1), 3)
    f, eps, guess = (jax.random.normal(k, (4, 6), jnp.float64) for k in keys)
    z = process.q_sample(f, eps, step.frm)
    found = prediction.split(guess, z, step.frm)
    kl = reverse.bound_term(reverse.density(f), z, eps, found, step, "posterior")
    weight = losses.discrete_weight(step.delta, 1)
    np.testing.assert_allclose(kl, weight * losses.squared_error(eps, guess), rtol=1e-6)


def test_learned_variance_interpolates_and_is_not_clamped(x64: None) -> None:
    step = tables.from_betas(tables.linear_betas(100)).at(jnp.array([0, 40]))
    z = jnp.zeros((2, 3))
    small, large = reverse.log_variances(step)
    at = lambda v: reverse.moments(z, prediction.Prediction(z, z, jnp.full((2, 3), v)), step, "learned")[1][:, 0]
    np.testing.assert_allclose(at(-1.0), small)
    np.testing.assert_allclose(at(1.0), large)
    np.testing.assert_allclose(at(3.0), large + (large - small))
    np.testing.assert_allclose(np.exp(large), tables.linear_betas(100)[[0, 40]], rtol=1e-6)


def test_true_reverse_variance_lies_outside_the_two_bounds() -> None:
    """Mixture of three Gaussians, ᾱ = .5 before a step of σ² = .02, z = .9 … and at z = .2 the variance exceeds β."""
    weights, means, deviations = np.array([0.3, 0.5, 0.2]), np.array([-1.2, 0.3, 1.5]), np.array([0.15, 0.2, 0.1])
    before, beta, z = 0.5, 0.02, 0.2
    bar = before * (1 - beta)
    total = bar * deviations**2 + 1 - bar
    log_r = np.log(weights) - 0.5 * np.log(total) - 0.5 * (z - np.sqrt(bar) * means) ** 2 / total
    r = np.exp(log_r - log_r.max())
    r /= r.sum()
    gain = np.sqrt(bar) * deviations**2 / total
    mean_k = means + gain * (z - np.sqrt(bar) * means)
    var_k = deviations**2 - gain * np.sqrt(bar) * deviations**2
    mean_0 = r @ mean_k
    var_0 = r @ (var_k + mean_k**2) - mean_0**2
    posterior = beta * (1 - before) / (1 - bar)
    true = posterior + (np.sqrt(before) * beta / (1 - bar)) ** 2 * var_0
    assert true == pytest.approx(0.0200356, abs=5e-8)
    assert posterior == pytest.approx(0.0196078, abs=5e-8)
    step = tables.from_betas(np.array([1 - before, beta])).at(jnp.array([1]))
    small, large = reverse.log_variances(step)
    np.testing.assert_allclose(np.exp(small), posterior, rtol=1e-5)
    np.testing.assert_allclose(np.exp(large), beta, rtol=1e-5)
    w = (math.log(true) - small[0]) / (large[0] - small[0])
    assert w > 1  # so that an interpolation weight must not be clamped


def test_kl_of_gaussians_against_quadrature(x64: None) -> None:
    grid = np.linspace(-30, 30, 400_001)
    m, v, n, w = 0.3, 0.7, -0.5, 1.9
    log = lambda mean, var: -0.5 * ((grid - mean) ** 2 / var + np.log(2 * np.pi * var))
    exact = np.trapezoid(np.exp(log(m, v)) * (log(m, v) - log(n, w)), grid)
    each = lambda a: jnp.full((1, 1), a)
    ours = reverse.gaussian_kl(each(m), each(math.log(v)), each(n), each(math.log(w)))
    np.testing.assert_allclose(ours, exact, rtol=1e-9)


def test_kl_keeps_small_differences() -> None:
    """Equal variances but for one part in 10⁵: the KL is δ²/4, of which float32 exp − 1 − δ keeps nothing."""
    zero, small = jnp.zeros((1, 1)), jnp.full((1, 1), 1e-3)
    np.testing.assert_allclose(reverse.gaussian_kl(zero, small, zero, zero), 1e-6 / 4, rtol=2e-3)


class TestDiscretizedGaussian:
    @pytest.mark.parametrize("vocabulary", [2, 17, 256])
    @pytest.mark.parametrize("log_scale", [-6.0, -3.0, 0.0])
    def test_probabilities_of_all_levels_sum_to_one(self, vocabulary: int, log_scale: float, x64: None) -> None:
        levels = jnp.arange(vocabulary)
        mean = jnp.full(vocabulary, 0.1234)
        log_p = decoders.discretized_gaussian(levels, mean, jnp.full(vocabulary, log_scale), vocabulary)
        np.testing.assert_allclose(jnp.sum(jnp.exp(log_p)), 1, atol=1e-12)

    def test_numbers_of_the_original_and_exact_ones(self, x64: None) -> None:
        # levels of x = −1, −.5, 0, 1 on the scale of bytes; the golden's x need not be levels, so these are numbers
        x = np.array([-1.0, -0.5, 0.0, 1.0])
        levels = jnp.asarray((x + 1) * 127.5)
        args: tuple[Any, ...] = (levels, jnp.asarray(x + 0.01), jnp.full(4, -3.0), 256)
        np.testing.assert_allclose(decoders.discretized_gaussian(*args, "tanh"), GOLDEN["decoder"], rtol=1e-9)
        exact = decoders.discretized_gaussian(*args)
        np.testing.assert_allclose(exact, [-0.79537, -2.78822, -2.78822, -0.49411], atol=6e-6)

    def test_tails_and_gradients_are_finite(self) -> None:
        def total(mean: Array, log_scale: Array) -> Array:
            return jnp.sum(decoders.discretized_gaussian(jnp.array([0, 3, 128, 255]), mean, log_scale, 256))

        for scale in (-7.0, -2.0, 2.0):
            for mean in (-3.0, 0.004, 3.0):
                args = jnp.full(4, mean), jnp.full(4, scale)
                assert np.isfinite(total(*args))
                for gradient in jax.grad(total, argnums=(0, 1))(*args):
                    assert np.all(np.isfinite(gradient)), (scale, mean)

    def test_levels_survive_a_round_trip(self) -> None:
        for vocabulary in (2, 17, 256):
            levels = jnp.arange(vocabulary)
            z = decoders.encode_to_ends(levels, vocabulary)
            assert z[0] == -1 and z[-1] == 1
            np.testing.assert_array_equal(decoders.decode_from_ends(z, vocabulary), levels)
            np.testing.assert_array_equal(
                decoders.decode_from_ends(jnp.array([-9.0, 9.0]), vocabulary), [0, vocabulary - 1]
            )


def test_a_learned_variance_needs_its_head() -> None:
    step = tables.from_betas(tables.linear_betas(30)).at(jnp.array([3]))
    z = jnp.zeros((1, 2))
    with pytest.raises(ValueError, match="variance head"):
        reverse.moments(z, prediction.Prediction(z, z), step, "learned")
