import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.closed_forms import level
from vdm_jax.diffusion import process
from vdm_jax.diffusion.process import SUB_VP, VE, VP

PROCESSES = {"vp": VP, "ve": VE, "sub_vp": SUB_VP}
# q(z_s|x), q(z_t|x) at γ_s = −2.3, γ_t = 1.1, as in the numbers below.
GAMMA_S, GAMMA_T = -2.3, 1.1


def pair(kind: str):
    frm, to = level(GAMMA_S, PROCESSES[kind]), level(GAMMA_T, PROCESSES[kind])
    return frm, to, jnp.asarray(GAMMA_T - GAMMA_S)


@pytest.mark.parametrize("kind", ["vp", "ve", "sub_vp"])
def test_sigma_over_alpha_is_exp_gamma_and_vp_preserves_variance(kind, x64):
    noise = level(np.linspace(-30, 30, 61), PROCESSES[kind])
    np.testing.assert_allclose(2 * np.log(noise.sigma / noise.alpha), noise.gamma, rtol=1e-13, atol=1e-13)
    if kind == "vp":
        np.testing.assert_allclose(noise.alpha**2 + noise.sigma**2, 1, rtol=1e-14)


def test_vp_keeps_relative_precision_at_both_ends():
    noise = level(np.float32([-30, 30]))
    np.testing.assert_allclose(noise.sigma[0], np.exp(-15.0), rtol=1e-6)
    np.testing.assert_allclose(noise.alpha[1], np.exp(-15.0), rtol=1e-6)


def test_variances_of_one_step(x64):
    """Numbers of σ²_{t|s} and σ_Q² at γ_s = −2.3, γ_t = 1.1, and σ_Q^{−2} = σ_s^{−2} + α²_{t|s} σ_{t|s}^{−2}."""
    frm, to, delta = pair("vp")
    alpha_ts, sigma_ts = process.forward_coefficients(frm, to, delta)
    np.testing.assert_allclose(sigma_ts**2, 0.7252215, rtol=1e-7)
    _, sigma_q = process.posterior(jnp.zeros((1, 1)), jnp.zeros((1, 1)), to, frm, delta)
    np.testing.assert_allclose(sigma_q**2, 0.0880819, rtol=1e-6)
    np.testing.assert_allclose(sigma_q**-2, frm.sigma**-2 + alpha_ts**2 / sigma_ts**2, rtol=1e-12)
    np.testing.assert_allclose(sigma_q**2, sigma_ts**2 * frm.sigma**2 / to.sigma**2, rtol=1e-12)


@pytest.mark.parametrize("kind", ["vp", "ve", "sub_vp"])
def test_forward_steps_compose_to_the_marginal(kind, x64):
    """q(z_t|z_s) after q(z_s|x) is q(z_t|x): means multiply, σ_t² = α²_{t|s} σ_s² + σ²_{t|s}."""
    frm, to, delta = pair(kind)
    alpha_ts, sigma_ts = process.forward_coefficients(frm, to, delta)
    np.testing.assert_allclose(alpha_ts * frm.alpha, to.alpha, rtol=1e-14)
    np.testing.assert_allclose(alpha_ts**2 * frm.sigma**2 + sigma_ts**2, to.sigma**2, rtol=1e-14)


@pytest.mark.parametrize("kind", ["vp", "ve", "sub_vp"])
def test_posterior_is_the_conditional_of_the_joint_gaussian(kind, x64):
    """Brute force: condition the covariance of (z_s, z_t) given x on z_t."""
    frm, to, delta = pair(kind)
    a, s_ts = (float(c) for c in process.forward_coefficients(frm, to, delta))
    a_s, s_s = float(frm.alpha), float(frm.sigma)
    covariance = np.array([[s_s**2, a * s_s**2], [a * s_s**2, a**2 * s_s**2 + s_ts**2]])
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((2, 5, 3))
    gain = covariance[0, 1] / covariance[1, 1]
    mean = a_s * x + gain * (z - a * a_s * x)
    variance = covariance[0, 0] - gain * covariance[0, 1]
    eps = (z - float(to.alpha) * x) / float(to.sigma)
    ours, deviation = process.posterior(jnp.asarray(z), jnp.asarray(eps), to, frm, delta)
    np.testing.assert_allclose(ours, mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(deviation**2, variance, rtol=1e-12)


def test_posterior_takes_one_level_per_example(x64):
    z, eps = np.random.default_rng(0).standard_normal((2, 4, 2, 2, 1))
    to, frm = level(np.linspace(-3, 0, 4)), level(np.linspace(-1, 3, 4))
    delta = frm.gamma - to.gamma
    mean, deviation = process.posterior(jnp.asarray(z), jnp.asarray(eps), frm, to, delta)
    for i in range(4):
        one = jax.tree.map(lambda a, i=i: a[i], (frm, to, delta))
        m, d = process.posterior(jnp.asarray(z[i : i + 1]), jnp.asarray(eps[i : i + 1]), *one)
        np.testing.assert_allclose(mean[i], m[0], rtol=1e-13)
        np.testing.assert_allclose(deviation[i], d, rtol=1e-13)


def test_q_sample_has_the_moments_of_the_marginal():
    eps = np.random.default_rng(0).standard_normal((2, 50_000)).astype(np.float32)
    noise = level(np.float32([-1.0, 2.0]))
    z = np.asarray(process.q_sample(jnp.full((2, 50_000), 0.7), jnp.asarray(eps), noise))
    np.testing.assert_allclose(z.mean(1), 0.7 * noise.alpha, atol=0.02)
    np.testing.assert_allclose(z.std(1), noise.sigma, rtol=0.02)


@pytest.mark.parametrize("kind", ["vp", "ve", "sub_vp"])
@pytest.mark.parametrize("gamma", [-6.0, 0.3, 4.0])
def test_flow_moves_the_exact_marginals(kind, gamma, x64):
    """For x ~ N(m, s²) the flow is z(γ) = α m + √(α² s² + σ²) u with u fixed; differentiate it."""
    mean, variance = 0.4, 0.21
    u = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)))

    def path(gamma):
        noise = level(gamma, PROCESSES[kind])
        return noise.alpha * mean + jnp.sqrt(noise.alpha**2 * variance + noise.sigma**2) * u

    gamma = jnp.asarray(gamma)
    noise = level(gamma, PROCESSES[kind])
    z, slope = jax.jvp(path, (gamma,), (jnp.ones(()),))
    eps = noise.sigma * (z - noise.alpha * mean) / (noise.alpha**2 * variance + noise.sigma**2)
    np.testing.assert_allclose(process.flow(z, eps, noise, PROCESSES[kind]), slope, rtol=1e-12)


def test_vp_flow_is_half_sigma_eps_minus_sigma_squared_z(x64):
    z, eps = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)))
    noise = level(np.array([-3.0, 0.0, 3.0]))
    sigma = np.asarray(noise.sigma)[:, None]
    np.testing.assert_allclose(process.flow(z, eps, noise), 0.5 * (sigma * eps - sigma**2 * z), rtol=1e-12)
