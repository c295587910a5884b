import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from tests.diffusion.closed_forms import (
    GAMMA_0,
    GAMMA_1,
    MAKERS,
    VARIANCE,
    as_float64,
    error,
    exact_eps,
    exact_predict,
    l_infinity,
    level,
)
from vdm_jax.diffusion import losses, prediction
from vdm_jax.diffusion.process import VE, VP, expand, q_sample

KINDS = ["cosine", "linear", "monotone"]


def schedule_of(kind, gamma_0=GAMMA_0, gamma_1=GAMMA_1):
    return as_float64(MAKERS[kind](gamma_0, gamma_1))


def discrete_loss(num_timesteps, kind="linear"):
    """L_T of the exact denoiser in nats per dimension: the mean over the grid of weight times error."""
    schedule = schedule_of(kind)
    t = jnp.arange(1, num_timesteps + 1) / num_timesteps
    weight = losses.discrete_weight(schedule.delta(t, jnp.asarray(1 / num_timesteps)), num_timesteps)
    return float(np.mean(np.asarray(weight) * error(schedule.gamma(t))))


def continuous_loss(schedule, variance=VARIANCE, points=20_001):
    t = jnp.linspace(0, 1, points)
    weight = losses.continuous_weight(jax.jit(schedule.dgamma)(t))
    return integrate.simpson(np.asarray(weight) * error(jax.jit(schedule.gamma)(t), variance), dx=1 / (points - 1))


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_endpoints_matter_in_continuous_time(kind, x64):
    """L_∞ = ½ ln((1 + s² e^{−γ₀})/(1 + s² e^{−γ₁})) = 6.099575 whatever the path."""
    np.testing.assert_allclose(l_infinity(), 6.099575, atol=5e-7)
    np.testing.assert_allclose(continuous_loss(schedule_of(kind)), l_infinity(), rtol=1e-6)


def test_the_path_matters_for_the_variance(x64):
    """Var L of one example of 64 dimensions: E[L²] = ¼ (D² + 2D) ∫ γ′² error² dt."""
    second = {}
    for kind in KINDS:
        schedule = schedule_of(kind)
        t = (jnp.arange(20_000.0) + 0.5) / 20_000
        second[kind] = float(np.mean((np.asarray(schedule.dgamma(t)) * error(schedule.gamma(t))) ** 2))
    assert max(second.values()) > 1.5 * min(second.values())


@pytest.mark.parametrize(
    ("num_timesteps", "wanted"), [(10, 16.138372), (100, 6.643253), (1000, 6.151121), (10_000, 6.104702)]
)
def test_discrete_loss_of_the_exact_gaussian_denoiser(num_timesteps, wanted, x64):
    np.testing.assert_allclose(discrete_loss(num_timesteps), wanted, atol=6e-7)


def test_gap_of_the_discrete_loss_follows_its_law(x64):
    """L_T − L_∞ = (Δ/2) L_∞ + (Δ/4)(m(1) − m(0)) + O(Δ²): .0744 bits/dim at T = 1000, halving as T doubles."""
    law = lambda t: (GAMMA_1 - GAMMA_0) / t * (l_infinity() / 2 + (error(GAMMA_1) - error(GAMMA_0)) / 4)
    gaps = {t: discrete_loss(t) - l_infinity() for t in (500, 1000, 2000, 4000)}
    np.testing.assert_allclose(gaps[1000] / np.log(2), 0.0744, atol=5e-5)
    for t, gap in gaps.items():
        np.testing.assert_allclose(gap, law(t), rtol=6 / t)
    np.testing.assert_allclose([gaps[t] / gaps[2 * t] for t in (500, 1000, 2000)], 2, rtol=0.01)


def random_example(kind="cosine", num_timesteps=50):
    rng = np.random.default_rng(0)
    f = jnp.asarray(rng.uniform(-1, 1, (6, 4, 4, 2)))
    eps, noise_in_prediction = (jnp.asarray(rng.standard_normal(f.shape)) for _ in range(2))
    schedule = schedule_of(kind)
    t = jnp.asarray(np.array([1, 4, 17, 30, 44, 50]) / num_timesteps)
    noise = level(schedule.gamma(t))
    z = q_sample(f, eps, noise)
    predicted = prediction.split(eps + 0.3 * noise_in_prediction, z, noise)
    return f, eps, schedule, t, noise, z, predicted, num_timesteps


@pytest.mark.parametrize("kind", KINDS)
def test_snr_form_on_x_equals_the_expm1_form_on_eps(kind, x64):
    """½ T (SNR(s) − SNR(t)) ‖x − x̂‖² = ½ T expm1(γ_t − γ_s) ‖ε − ε̂‖², example by example (VDM eq. 13, 14)."""
    f, eps, schedule, t, noise, _, predicted, steps = random_example(kind)
    delta = schedule.delta(t, jnp.asarray(1 / steps))
    on_eps = losses.discrete_weight(delta, steps) * losses.squared_error(eps, predicted.eps)
    snr = jnp.exp(-schedule.gamma(t - 1 / steps)) - jnp.exp(-schedule.gamma(t))
    np.testing.assert_allclose(losses.snr_delta(noise.gamma, delta), snr, rtol=1e-9)
    on_x = losses.x_weight(losses.snr_delta(noise.gamma, delta), steps) * losses.squared_error(f, predicted.x)
    np.testing.assert_allclose(on_x, on_eps, rtol=1e-10)


def test_discrete_weight_tends_to_the_continuous_one(x64):
    schedule, t = schedule_of("monotone"), jnp.linspace(0.1, 1, 10)
    steps = 10**6
    weight = losses.discrete_weight(schedule.delta(t, jnp.asarray(1 / steps)), steps)
    np.testing.assert_allclose(weight, losses.continuous_weight(schedule.dgamma(t)), rtol=1e-3)


@pytest.mark.parametrize("target", ["x", "v"])
def test_prediction_targets_share_the_loss(target, x64):
    """A network that says the same in ε, x or v has the same loss."""
    _, eps, _, _, noise, z, predicted, _ = random_example()
    raw = predicted.x if target == "x" else prediction.v_from(predicted.x, predicted.eps, noise)
    again = prediction.split(raw, z, noise, target)
    np.testing.assert_allclose(
        losses.squared_error(eps, again.eps), losses.squared_error(eps, predicted.eps), rtol=1e-9
    )


def test_quadrature_over_the_snr_is_the_same_number(x64):
    """L_∞ = ½ ∫ E‖x − x̂‖² dv from v = SNR(1) to SNR(0), E‖x − x̂‖² measured on the split of the exact denoiser."""
    gammas = jnp.linspace(GAMMA_1, GAMMA_0, 4001)
    noise = level(gammas)

    def x_error(x, eps):
        z = q_sample(jnp.full((4001, 1), x), jnp.full((4001, 1), eps), noise)
        return losses.squared_error(jnp.full((4001, 1), x), exact_predict()(z, noise).x)

    # x and ε enter linearly and are independent, so two directions give the expectation.
    expected = x_error(VARIANCE**0.5, 0.0) + x_error(0.0, 1.0)
    v = np.exp(-np.asarray(gammas))
    np.testing.assert_allclose(0.5 * integrate.simpson(np.asarray(expected), x=v), l_infinity(), rtol=1e-5)


def test_limits_of_the_snr_integral_are_not_to_be_swapped(x64):
    swapped = continuous_loss(schedule_of("linear", GAMMA_1, GAMMA_0))
    np.testing.assert_allclose(swapped, -6.0996, atol=5e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_variance_exploding_has_the_same_diffusion_loss(kind, x64):
    """x̂_VE(z, γ) = x̂_VP(α z, γ) has the same ‖ε − ε̂‖², so the same loss at equal γ."""
    f, eps, schedule, t, vp, z_vp, _, _ = random_example(kind)
    ve = level(schedule.gamma(t), VE)
    z_ve = q_sample(f, eps, ve)
    denoise = lambda z: jnp.tanh(3 * z) + 0.1 * jnp.roll(z, 1, axis=1)  # any function will do
    alpha = expand(vp.alpha, z_ve.ndim)
    np.testing.assert_allclose(alpha * z_ve, z_vp, rtol=1e-12)
    on_ve = prediction.split(denoise(alpha * z_ve), z_ve, ve, "x").eps
    on_vp = prediction.split(denoise(z_vp), z_vp, vp, "x").eps
    np.testing.assert_allclose(losses.squared_error(eps, on_ve), losses.squared_error(eps, on_vp), rtol=1e-6)


def test_weighted_loss_has_the_simple_and_the_plain_loss_as_cases(x64):
    """w = 1 is L_∞; w(SNR(t)) = 2/γ′(t) is E_t‖ε − ε̂‖²."""
    schedule, t = schedule_of("cosine"), jnp.linspace(0.01, 0.99, 50)
    gamma, dgamma = schedule.gamma(t), schedule.dgamma(t)
    plain = losses.weighted(dgamma, jnp.ones_like, gamma)
    np.testing.assert_allclose(plain, losses.continuous_weight(dgamma), rtol=1e-14)

    def weighting(snr):
        # α = cos, as far as the truncation allows: γ = 2 log tan y, dγ/dt = 2a/(sin y cos y), y = arctan SNR^−½
        y = jnp.arctan(snr**-0.5)
        a = jnp.arctan(jnp.exp(GAMMA_1 / 2)) - jnp.arctan(jnp.exp(GAMMA_0 / 2))
        return jnp.sin(y) * jnp.cos(y) / a

    np.testing.assert_allclose(losses.weighted(dgamma, weighting, gamma), losses.simple_weight(t), rtol=1e-9)


@pytest.mark.parametrize("process", [VP, VE], ids=["vp", "ve"])
def test_prior_term(process, x64):
    """.0016255 bits/dim at γ₁ = 5, E[f²] = 1/3, for VP with N(0, I) and for VE with N(0, (1 + e^{γ₁}) I)."""
    f = jnp.sqrt(jnp.full((2, 3, 3, 1), 1 / 3))
    bits = losses.bits_per_dim(losses.prior(f, jnp.asarray(GAMMA_1), process), 9)
    np.testing.assert_allclose(bits, 0.0016255, atol=5e-8)
    noise = level(GAMMA_1, process)
    variance = float(process.prior_variance(noise.gamma))
    kl = 0.5 * ((noise.alpha**2 / 3 + noise.sigma**2) / variance - 1 - np.log(noise.sigma**2 / variance))
    np.testing.assert_allclose(bits, kl / np.log(2), rtol=1e-11)


def test_prior_of_variance_exploding_needs_the_variance_of_the_data_too(x64):
    """N(0, σ₁² I) would give .0016201."""
    wrong = VE._replace(prior_variance=jnp.exp)
    f = jnp.sqrt(jnp.full((1, 1), 1 / 3))
    np.testing.assert_allclose(
        losses.bits_per_dim(losses.prior(f, jnp.asarray(GAMMA_1), wrong), 1), 0.0016201, atol=5e-8
    )


def test_prior_in_float32_loses_nothing_that_matters():
    f = jnp.sqrt(jnp.full((1, 1000), 1 / 3))
    np.testing.assert_allclose(losses.bits_per_dim(losses.prior(f, jnp.float32(GAMMA_1)), 1000), 0.0016255, rtol=2e-4)


def test_whole_bound_of_gaussian_data_is_the_closed_form_likelihood(x64):
    """Reconstruction + prior + L_∞ = −E log N(x; 0, s²) + endpoint errors, in nats per dimension.

    With the decoder N(x; z_0/α_0, e^{γ₀}) the reconstruction is ½ ln(2πe·e^{γ₀}). The bound is loose by
    KL(q(z_0|x) ‖ p(z_0|x)) < ½ e^{γ₀}/s² and by the prior's N(0, 1) in the place of N(0, α₁² s² + σ₁²).
    """
    noise_0, noise_1 = level(GAMMA_0), level(GAMMA_1)
    reconstruction = 0.5 * (np.log(2 * np.pi * np.e) + GAMMA_0)
    x = jnp.sqrt(jnp.full((1, 1), VARIANCE))
    eps = jnp.ones((1, 1))
    np.testing.assert_allclose(losses.reconstruction(x, x, eps, noise_0, None), reconstruction, rtol=1e-9)
    prior = losses.prior(x, noise_1.gamma)[0]
    bound = reconstruction + prior + continuous_loss(schedule_of("linear"))
    likelihood = 0.5 * np.log(2 * np.pi * np.e * VARIANCE)
    marginal = noise_1.alpha**2 * VARIANCE + noise_1.sigma**2
    at_1 = 0.5 * (marginal - 1 - jnp.log(marginal))
    at_0 = 0.5 * np.log1p(np.exp(GAMMA_0) / VARIANCE)
    np.testing.assert_allclose(bound - likelihood, at_1 + at_0, rtol=2e-3)
    assert 0 < bound - likelihood < 3e-5


def test_error_per_dim_of_a_silent_denoiser_is_one():
    eps = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
    per_dim = losses.error_per_dim(losses.squared_error(eps, jnp.zeros_like(eps)), eps)
    np.testing.assert_allclose(per_dim, 1, atol=0.1)


def test_mean_squared_error_of_the_exact_denoiser_is_the_closed_form():
    gammas = np.float32([-10, -2, 0, 3])
    rng = np.random.default_rng(0)
    x, eps = (jnp.asarray(rng.standard_normal((4, 40_000)), jnp.float32) for _ in range(2))
    noise = level(gammas)
    z = q_sample(x * VARIANCE**0.5, eps, noise)
    measured = losses.error_per_dim(losses.squared_error(eps, exact_eps(z, noise)), z)
    np.testing.assert_allclose(measured, error(gammas), rtol=0.03)
