from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.closed_forms import GAMMA_0, GAMMA_1, VARIANCE, exact_predict, level, log_normal, marginal
from vdm_jax.diffusion import decoders, likelihood, prediction, samplers
from vdm_jax.diffusion.process import VE, VP, noise
from vdm_jax.networks.vdm_unet import VDMUNet

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in half the time
DIVERGENCES = {"exact": likelihood.exact_divergence, "hutchinson": likelihood.hutchinson_divergence}


def gaussian_ode(process=VP, tolerance=1e-6, gamma_0=GAMMA_0, gamma_1=GAMMA_1, **options):
    predict = lambda z, level, cond: exact_predict()(z, level)
    level_of = lambda gamma: noise(gamma, gamma, process)
    return likelihood.ODE(predict, level_of, jnp.asarray(gamma_0), jnp.asarray(gamma_1), process, tolerance, **options)


def normal(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.result_type(float))


def keys_of(z, seed=0):
    return jax.random.split(jax.random.key(seed), len(z))


def prior_error(z_1, process=VP):
    """log N(z_1; 0, prior) − log N(z_1; 0, α₁² s² + σ₁²), [B]: what p(z_1) costs."""
    noise_1 = level(GAMMA_1, process)
    return log_normal(z_1, float(process.prior_variance(noise_1.gamma))) - log_normal(z_1, float(marginal(noise_1)))


@pytest.mark.parametrize(("process", "divergence"), [(VP, "hutchinson"), (VE, "exact")], ids=["vp", "ve"])
def test_log_likelihood_of_gaussian_data_is_the_closed_form(process, divergence, x64):
    """Exact denoiser: log p(z_0) = log N(z_0; 0, α₀² s² + σ₀²) + the error of the prior; z_1 is known too.

    The flow is linear with a multiple of the identity, for which Hutchinson's estimate has no variance.
    """
    ode = gaussian_ode(process, tolerance=1e-8)
    variance = float(marginal(level(GAMMA_0, process)))
    z_0 = normal((3, 2, 2, 1)) * variance**0.5
    run = jit(lambda z: likelihood.log_prob(ode, z, None, keys_of(z), DIVERGENCES[divergence]))
    log_p, z_1, evaluations = run(z_0)
    stretch = np.sqrt(float(marginal(level(GAMMA_1, process))) / variance)
    np.testing.assert_allclose(z_1, z_0 * stretch, rtol=1e-6)
    np.testing.assert_allclose(log_p, log_normal(z_0, variance) + prior_error(z_1, process), rtol=1e-6)
    assert np.all(evaluations > 30) and np.all(evaluations < 2000)


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_error_stays_near_the_tolerance(tolerance, x64):
    variance = float(marginal(level(GAMMA_0)))
    z_0 = normal((2, 8)) * variance**0.5
    ode = gaussian_ode(tolerance=tolerance)
    log_p, z_1, _ = jit(lambda z: likelihood.log_prob(ode, z, None, keys_of(z)))(z_0)
    per_dim = np.abs(log_p - log_normal(z_0, variance) - prior_error(z_1)) / 8
    assert per_dim.max() < 20 * tolerance


@pytest.mark.slow
def test_float32_is_good_to_its_rounding():
    variance = float(marginal(level(GAMMA_0)))
    z_0 = normal((4, 8)) * variance**0.5
    ode = gaussian_ode(tolerance=1e-5)
    log_p, z_1, _ = jit(lambda z: likelihood.log_prob(ode, z, None, keys_of(z)))(z_0)
    assert log_p.dtype == jnp.float32
    np.testing.assert_allclose(log_p, log_normal(z_0, variance) + prior_error(z_1), atol=8 * 1e-4)


def tanh_ode(**options):
    """A flow that is not linear, mixes its dimensions and depends on the conditioning."""
    mix = jnp.asarray(np.random.default_rng(3).standard_normal((4, 4)) / 2)

    def predict(z, level, cond):
        rates = (1 + cond).reshape(-1, 1)
        return prediction.split(jnp.tanh((z * rates) @ mix.astype(z.dtype)), z, level)

    level_of = lambda gamma: noise(gamma, gamma)
    return likelihood.ODE(predict, level_of, jnp.asarray(-4.0), jnp.asarray(3.0), **options)


def test_density_of_a_nonlinear_flow_is_the_change_of_variables(x64):
    """log p(z_0) = log N(z_1) + log |det ∂z_1/∂z_0| with the determinant by differences of the flow."""
    ode = tanh_ode(tolerance=1e-9)
    cond = jnp.asarray([0.3])
    z_0 = normal((1, 4))
    log_p, z_1, _ = jit(lambda z: likelihood.log_prob(ode, z, cond, keys_of(z)))(z_0)
    h = 1e-4
    both = jnp.concatenate([z_0 + h * jnp.eye(4), z_0 - h * jnp.eye(4)])
    ends = jit(lambda z: likelihood.encode(ode, z, jnp.full(8, 0.3)))(both)
    jacobian = (ends[:4] - ends[4:]) / (2 * h)
    np.testing.assert_allclose(log_p[0], log_normal(z_1, 1.0)[0] + np.linalg.slogdet(jacobian)[1], rtol=1e-6)


def test_hutchinson_is_unbiased(x64):
    """For each of 1,000 keys its own estimate; their mean is the exact divergence, their spread is not zero."""
    f = lambda z: jnp.tanh(z @ normal((5, 5))) * z
    z = normal((5,), 1)
    value, exact = likelihood.exact_divergence(f, z, jax.random.key(0))
    np.testing.assert_allclose(value, f(z))
    np.testing.assert_allclose(exact, jnp.trace(jax.jacrev(f)(z)), rtol=1e-12)
    keys = jax.random.split(jax.random.key(0), 1000)
    estimates = jax.vmap(lambda k: likelihood.hutchinson_divergence(f, z, k)[1])(keys)
    spread = np.std(estimates) / np.sqrt(1000)
    assert spread > 0 and abs(np.mean(estimates) - exact) < 4 * spread


@pytest.mark.slow
def test_an_example_does_not_depend_on_its_batch():
    """Each solves with its own steps: a hard neighbor changes nothing."""
    ode = tanh_ode(tolerance=1e-4)
    z_0 = normal((4, 4)).at[3].multiply(20)
    cond, keys = jnp.array([0.0, 0.5, 1.0, 8.0]), jax.random.split(jax.random.key(0), 4)
    run = jit(lambda z, c, k: likelihood.log_prob(ode, z, c, k, likelihood.hutchinson_divergence))
    log_p, z_1, evaluations = run(z_0, cond, keys)
    assert len(set(evaluations.tolist())) > 1
    for part in (slice(0, 2), slice(1, 2)):
        some, some_z, some_evaluations = run(z_0[part], cond[part], keys[part])
        np.testing.assert_allclose(some, log_p[part], rtol=1e-6)
        np.testing.assert_allclose(some_z, z_1[part], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(some_evaluations, evaluations[part])


@pytest.mark.slow
def test_evaluations_are_counted():
    calls = []
    ode = gaussian_ode(tolerance=1e-4)
    counted = lambda z, level, cond: (jax.debug.callback(lambda: calls.append(1)), ode.predict(z, level, cond))[1]
    z_0 = normal((1, 3))
    _, _, evaluations = likelihood.log_prob(ode._replace(predict=counted), z_0, None, keys_of(z_0))
    jax.effects_barrier()
    assert len(calls) == evaluations[0]


def test_decode_inverts_encode():
    ode = tanh_ode(tolerance=1e-5)
    z_0, cond = normal((3, 4)), jnp.array([0.0, 0.4, 0.9])
    z_1 = jit(lambda z: likelihood.encode(ode, z, cond))(z_0)
    assert np.abs(z_1 - z_0).max() > 0.1
    np.testing.assert_allclose(jit(lambda z: likelihood.decode(ode, z, cond))(z_1), z_0, atol=2e-3)


def test_bound_of_continuous_gaussian_data_is_the_closed_form_likelihood(x64):
    """The model says x ~ N(0, s² + 2 e^{γ₀}) and the bound is −log p(x) + KL(q(z_0|x) ‖ p(z_0|x)).

    At γ₀ = −13.3 the bound of one draw of ε is −log N(x; 0, s²) + O(e^{γ₀/2}/s), and the error of the prior.
    """
    ode = gaussian_ode(tolerance=1e-8)
    x, eps = normal((5, 6)) * VARIANCE**0.5, normal((5, 6), 1)
    run = jit(lambda x, eps: likelihood.bound(ode, x, eps, None, keys_of(x), None))
    terms = run(x, eps)
    total = terms["encoder"] + terms["flow"] + terms["reconstruction"]
    _, z_1, _ = likelihood.log_prob(ode, decoders.encode(x, None), None, keys_of(x))
    wanted = -log_normal(x, VARIANCE) - prior_error(z_1)
    np.testing.assert_allclose(total, wanted, atol=6 * 0.02)  # one draw of ε: (e^{γ₀}/s²)^½ a dimension
    np.testing.assert_allclose(np.mean(total), np.mean(wanted), atol=0.03)


@pytest.mark.slow
def test_bound_is_never_below_the_likelihood_of_the_model(x64):
    """Coarse decoder, one dimension, exact p(x) = ∫ p_ODE(z_0) p(x|z_0) dz_0 by quadrature for every level."""
    vocabulary, gamma_0, draws = 5, -2.0, 4000
    ode = gaussian_ode(tolerance=1e-6, gamma_0=gamma_0)
    noise_0 = level(gamma_0)
    x = jnp.tile(jnp.arange(vocabulary), draws).reshape(-1, 1)
    eps = normal(x.shape)
    terms = jit(lambda x, eps: likelihood.bound(ode, x, eps, None, keys_of(x), vocabulary))(x, eps)
    total = (terms["encoder"] + terms["flow"] + terms["reconstruction"]).reshape(draws, vocabulary)
    z = jnp.linspace(-8, 8, 4001).reshape(-1, 1)
    density, _, _ = jit(lambda z: likelihood.log_prob(ode, z, None, keys_of(z)))(z)
    np.testing.assert_allclose(np.trapezoid(np.exp(density), z[:, 0]), 1, rtol=1e-4)
    for k in range(vocabulary):
        decoder = decoders.log_prob(jnp.full(z.shape, k), z, noise_0, vocabulary)
        exact = -np.log(np.trapezoid(np.exp(density + decoder), z[:, 0]))
        spread = np.std(total[:, k]) / np.sqrt(draws)
        # E[bound] − exact = KL(q(z_0|x) ‖ p(z_0|x)) ≥ 0, and q is not far from the posterior
        assert exact - 3 * spread < np.mean(total[:, k]) < exact + 0.6
        # E_q[exp(−bound)] = p(x): the importance-weighted estimate is unbiased
        weights = np.exp(-np.asarray(total[:, k]))
        np.testing.assert_allclose(np.mean(weights), np.exp(-exact), atol=5 * np.std(weights) / np.sqrt(draws))


@pytest.mark.slow
def test_failure_is_nan_and_too_fine_a_tolerance_is_refused():
    z_0 = normal((2, 3))
    log_p, z_1, _ = likelihood.log_prob(gaussian_ode(tolerance=1e-5, max_steps=3), z_0, None, keys_of(z_0))
    assert np.all(np.isnan(log_p)) and np.all(np.isnan(z_1))
    with pytest.raises(ValueError, match="tolerance=1e-08 is below what float32 resolves; use 2e-06"):
        likelihood.encode(gaussian_ode(tolerance=1e-8), z_0, None)


@pytest.mark.slow
def test_runs_through_the_unet():
    """Through the convolutions' own gradients, scanned blocks and attention; a silent network has a known flow.

    Untrained, ε̂ = z exactly, so dz/dγ = ½ (σ − σ²) z, whatever the image.
    """
    net = VDMUNet(width=8, depth=1, fourier=(3, 4), groups=4)
    shape = (4, 4, 1)
    variables = net.init(jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1))
    denoise = lambda z, level, cond: net.apply(variables, z, level.t, cond)
    predict = lambda z, level, cond: samplers.predictor(denoise, prediction.split, cond)(z, level)
    level_of = lambda gamma: noise(gamma, (gamma + 8) / 13)
    ode = likelihood.ODE(predict, level_of, jnp.float32(-8.0), jnp.float32(5.0), tolerance=1e-4)
    z_0, cond = normal((2, *shape)), jnp.zeros(2)
    log_p, z_1, _ = jit(lambda z: likelihood.log_prob(ode, z, cond, keys_of(z), likelihood.hutchinson_divergence))(z_0)
    gammas = np.linspace(-8, 5, 10_001)
    sigma = np.sqrt(1 / (1 + np.exp(-gammas)))
    growth = np.trapezoid(0.5 * (sigma - sigma**2), gammas)
    np.testing.assert_allclose(z_1, z_0 * np.exp(growth), rtol=2e-3)
    np.testing.assert_allclose(log_p, log_normal(z_1, 1.0) + 16 * growth, rtol=2e-3)


def traveled(tolerance):
    """Errors at the data and on the way, and evaluations; z_γ = z_1 √(Var z_γ / Var z_1) of Gaussian data."""
    z_1, seen = normal((2, 5)), jnp.asarray([3.0, -2.0, -9.0])
    scale = lambda gamma: np.sqrt(float(marginal(level(gamma)) / marginal(level(GAMMA_1))))
    ode = gaussian_ode(tolerance=tolerance)
    run = jit(lambda z: likelihood.travel(ode, z, None, ode.gamma_1, ode.gamma_0, seen))
    last, path, evaluations = run(z_1)
    on_the_way = max(np.abs(p - scale(float(g)) * z_1).max() for p, g in zip(path, seen, strict=True))
    return np.abs(last - scale(GAMMA_0) * z_1).max(), on_the_way, evaluations.mean()


def test_travel_from_noise_to_data_is_the_closed_form_on_the_way_too(x64):
    end, on_the_way, evaluations = traveled(1e-6)
    assert end < 1e-4 and on_the_way < 1e-3 and evaluations > 30


@pytest.mark.slow
def test_travel_s_error_falls_with_its_tolerance(x64):
    coarse, fine = traveled(1e-3), traveled(1e-6)
    assert coarse[0] < 5e-2 and fine[0] < coarse[0] / 50
    assert coarse[1] < 5e-2 and fine[1] < coarse[1] / 10
    assert fine[2] > 1.5 * coarse[2]
