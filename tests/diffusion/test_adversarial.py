"""Large steps as GANs: the tables of the paper, pairs on one path, the posterior, losses and R1, in closed form."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import adversarial, samplers, tables
from vdm_jax.diffusion.process import posterior, posterior_of_x
from vdm_jax.diffusion.samplers import Transition

GOLDENS = Path(__file__).parent.parent / "convert" / "goldens" / "ddgan.npz"
STEPS = (1, 2, 4, 8)


def all_steps(count: int) -> Transition:
    """The steps ℓ → ℓ − 1 of ℓ = 1 … T."""
    return tables.from_betas(tables.vp_betas(count)).at(jnp.arange(count))


@pytest.mark.parametrize("count", [pytest.param(n, marks=[pytest.mark.slow] * (n not in (1, 4))) for n in STEPS])
def test_table_and_posterior_are_those_of_the_original(count: int) -> None:
    """Its q(x_0) adds β = 1e-8, of which 1 − β is 1 in float32: the least noisy real image is the image itself."""
    with np.load(GOLDENS) as file:
        golden = {k.split("/")[1]: file[k] for k in file if k.startswith(f"T{count}/")}
    np.testing.assert_allclose(tables.vp_betas(count), golden["betas"], rtol=1e-6)
    steps = all_steps(count)
    for ours, theirs in (("alpha", "a_s_cum"), ("sigma", "sigmas_cum")):
        levels = np.concatenate([getattr(steps.to, ours)[:1], getattr(steps.frm, ours)])
        np.testing.assert_allclose(levels, golden[theirs], rtol=3e-4 if ours == "alpha" else 1e-6)
    ones, zeros = jnp.ones((count, 1)), jnp.zeros((count, 1))
    c1, deviation = posterior_of_x(zeros, ones, steps.frm, steps.to, steps.delta)
    c2, _ = posterior_of_x(ones, zeros, steps.frm, steps.to, steps.delta)
    np.testing.assert_allclose(c1[:, 0], golden["c1"], rtol=3e-4)
    np.testing.assert_allclose(c2[:, 0], golden["c2"], rtol=3e-4)
    np.testing.assert_allclose(np.square(deviation), golden["variance"], rtol=1e-5)


def test_constants_of_four_steps_in_float64() -> None:
    """√ᾱ and the posterior's coefficients from β alone, by DDPM's formulas (Ho et al. 2020, eq. 6 and 7)."""
    betas = tables.vp_betas(4)
    np.testing.assert_allclose(betas, [0.478255, 0.849206, 0.956418, 0.987404], atol=5e-7)
    bar = np.cumprod(1 - betas)
    before = np.concatenate([[1.0], bar[:-1]])
    steps = all_steps(4)
    x, z = np.full((4, 1), 0.7), np.full((4, 1), -1.3)
    mean, deviation = posterior_of_x(jnp.asarray(z), jnp.asarray(x), steps.frm, steps.to, steps.delta)
    c1, c2 = betas * np.sqrt(before) / (1 - bar), (1 - before) * np.sqrt(1 - betas) / (1 - bar)
    np.testing.assert_allclose(mean[:, 0], 0.7 * c1 - 1.3 * c2, rtol=2e-5)
    np.testing.assert_allclose(np.square(deviation), betas * (1 - before) / (1 - bar), rtol=1e-5)


def test_posterior_of_x_is_the_posterior_of_its_noise() -> None:
    steps = all_steps(8)
    rng = np.random.default_rng(0)
    x, eps = (jnp.asarray(rng.standard_normal((8, 3)), jnp.float32) for _ in range(2))
    z = steps.frm.alpha[:, None] * x + steps.frm.sigma[:, None] * eps
    ours = posterior_of_x(z, x, steps.frm, steps.to, steps.delta)
    for a, b in zip(ours, posterior(z, eps, steps.frm, steps.to, steps.delta), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4)  # the other loses digits where α is .007


@pytest.mark.slow
def test_pairs_lie_on_one_path_and_the_posterior_leads_back() -> None:
    """Moments over 40,000 draws of x = 0.8: (z_s, z_t) of the forward process; z_s of (z_t, x) by the posterior."""
    count, x = 40_000, 0.8
    for index in (0, 2):
        step = tables.from_betas(tables.vp_betas(4)).at(jnp.full(count, index))
        keys = jax.random.split(jax.random.key(index), 3)
        eps, more, last = (jax.random.normal(k, (count, 1)) for k in keys)
        z_s, z_t = adversarial.forward_pair(jnp.full((count, 1), x), eps, more, step)
        back = adversarial.posterior_sample(jnp.full((count, 1), x), z_t, last, step)
        a_s, s_s, a_t, s_t = (float(v[0]) for v in (step.to.alpha, step.to.sigma, step.frm.alpha, step.frm.sigma))
        covariance = a_t / a_s * s_s**2
        for drawn in (z_s, back):
            pair = np.cov(np.asarray(drawn)[:, 0], np.asarray(z_t)[:, 0])
            np.testing.assert_allclose(np.mean(drawn), a_s * x, atol=0.02)
            np.testing.assert_allclose(pair, [[s_s**2, covariance], [covariance, s_t**2]], atol=0.03)
        if index == 0:
            np.testing.assert_array_equal(back, np.full((count, 1), np.float32(x)))


def test_losses_are_the_log_probabilities_of_the_lecture_twice_over() -> None:
    """−log D − log(1 − D) and −log D of D = sigmoid(logits) (errata 5.1)."""
    real, fake = jnp.asarray([3.0, -1.0, 0.0]), jnp.asarray([0.5, -2.0, 4.0])
    p, q = (1 / (1 + np.exp(-np.asarray(v))) for v in (real, fake))
    np.testing.assert_allclose(adversarial.discriminator_loss(real, fake), -np.log(p) - np.log1p(-q), rtol=1e-5)
    np.testing.assert_allclose(adversarial.generator_loss(fake), -np.log(q), rtol=1e-5)
    assert np.isfinite(adversarial.discriminator_loss(jnp.asarray([-1e4]), jnp.asarray([1e4]))).all()


def test_penalty_is_half_the_squared_slope() -> None:
    """D(z) = zᵀ A z: ‖∇D‖² = ‖(A + Aᵀ) z‖², of each example by itself."""
    rng = np.random.default_rng(1)
    matrix, z = rng.standard_normal((4, 4)).astype(np.float32), rng.standard_normal((3, 4)).astype(np.float32)
    logits, penalty = adversarial.with_penalty(lambda z: jnp.einsum("bi,ij,bj->b", z, matrix, z), jnp.asarray(z))
    np.testing.assert_allclose(logits, np.einsum("bi,ij,bj->b", z, matrix, z), rtol=1e-4)
    np.testing.assert_allclose(penalty, 0.5 * np.square(z @ (matrix + matrix.T)).sum(1), rtol=1e-4)


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_samples_of_the_true_posterior_of_x_are_the_data(count: int) -> None:
    """G that draws from p(x|z_t) of a mixture of two points gives the mixture, though every step is large."""
    number = 2000
    points = jnp.asarray([-1.0, 1.0])
    table = tables.from_betas(tables.vp_betas(count))

    def draw(keys: jax.Array, z: jax.Array, step: Transition) -> jax.Array:
        log_odds = 2 * step.frm.alpha * z[:, 0] / jnp.square(step.frm.sigma)  # weights 3 : 1
        up = jax.vmap(jax.random.uniform)(keys) < jax.nn.sigmoid(log_odds - jnp.log(3.0))
        x = jnp.where(up, points[1], points[0])[:, None]
        return adversarial.posterior_sample(
            x, z, samplers.normal(jax.vmap(jax.random.fold_in, (0, None))(keys, 1), z), step
        )

    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(2), jnp.arange(number))
    z = samplers.prior_sample(keys, (1,), table.gamma[-1])
    out, _ = samplers.run(adversarial.sampler_step(draw), z, keys, table.reverse())
    np.testing.assert_allclose(np.unique(np.round(out, 5)), [-1, 1])
    np.testing.assert_allclose(np.mean(np.asarray(out) > 0), 0.25, atol=0.03)
