"""The noise of one step against that of all, and the bound along a path, on densities that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.closed_forms import exact_eps, log_normal
from vdm_jax.diffusion import per_step, reverse, tables
from vdm_jax.diffusion.prediction import split
from vdm_jax.diffusion.process import expand, posterior

PI, MU, S = np.array([0.3, 0.5, 0.2]), np.array([-1.2, 0.3, 1.5]), np.array([0.15, 0.2, 0.1])
ALPHA_BAR, STEP_VARIANCE, Z = 0.5, 0.02, 0.9  # of the level below, of the step, and z at the level above


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


bound = jax.jit(per_step.path_bound, static_argnums=1)
terms = jax.jit(per_step.path_terms, static_argnums=1)


def chain(step_variance=STEP_VARIANCE):
    """The last step of the chain ᾱ = ½, ½ (1 − σ²): [1] fields."""
    return tables.from_betas(np.array([1 - ALPHA_BAR, step_variance])).at(jnp.array([1]))


def mixture_score(z, alpha_bar):
    """∇ log q(z) where the mixture has been noised to ᾱ."""
    variance = alpha_bar * S**2 + 1 - alpha_bar
    off = np.sqrt(alpha_bar) * MU - z[:, None]
    weight = PI * np.exp(-0.5 * off**2 / variance) / np.sqrt(variance)
    return (weight * off / variance).sum(1) / weight.sum(1)


def exact_previous(z):
    """E[z_s|z_t = z] by the posterior of each component of q(z_s), without a score."""
    alpha, below = np.sqrt(1 - STEP_VARIANCE), ALPHA_BAR * S**2 + 1 - ALPHA_BAR
    above, center = alpha**2 * below + STEP_VARIANCE, np.sqrt(ALPHA_BAR) * MU
    weight = PI * np.exp(-0.5 * (z - alpha * center) ** 2 / above) / np.sqrt(above)
    return float(weight @ (center + alpha * below / above * (z - alpha * center)) / weight.sum())


def test_both_noises_give_the_mean_of_the_level_below_and_mixing_them_up_does_not():
    step, z = chain(), jnp.array([Z])
    score = mixture_score(np.array([Z]), ALPHA_BAR * (1 - STEP_VARIANCE))
    eps = jnp.asarray(-score) * step.frm.sigma
    by_step = per_step.previous_from_step_eps(z, per_step.step_eps_from_eps(eps, step), step)
    by_cumulative, _ = posterior(z, eps, step.frm, step.to, step.delta)
    wrong = per_step.previous_from_step_eps(z, eps, step)
    np.testing.assert_allclose(exact_previous(Z), 0.893510, atol=5e-7)
    np.testing.assert_allclose([by_step[0], by_cumulative[0]], exact_previous(Z), rtol=1e-12)
    np.testing.assert_allclose(wrong[0], 0.830221, atol=5e-7)


def test_step_noise_is_minus_the_step_deviation_times_the_score():
    step = chain()
    score = mixture_score(np.array([Z]), ALPHA_BAR * (1 - STEP_VARIANCE))
    eps = jnp.asarray(-score) * step.frm.sigma
    np.testing.assert_allclose(per_step.step_eps_from_eps(eps, step), -np.sqrt(STEP_VARIANCE) * score, rtol=1e-12)


def test_conversions_undo_each_other_and_hold_at_the_data():
    steps = tables.from_betas(tables.linear_betas(20, 0.1, 10.0)).reverse()
    z, eps = (jnp.asarray(np.random.default_rng(k).normal(size=(20, 3))) for k in (0, 1))
    step_eps = per_step.step_eps_from_eps(eps, steps)
    np.testing.assert_allclose(per_step.eps_from_step_eps(step_eps, steps), eps, rtol=1e-12)
    previous = per_step.previous_from_step_eps(z, step_eps, steps)
    np.testing.assert_allclose(per_step.step_eps_from_previous(z, previous, steps), step_eps, rtol=1e-9)
    last = jax.tree.map(lambda a: a[-1:], steps)  # 1 → 0: the noise of one step is that of all
    np.testing.assert_allclose(per_step.step_eps_from_eps(eps[-1:], last), eps[-1:], rtol=1e-15)
    np.testing.assert_allclose(
        previous[-1:], (z[-1:] - expand(last.frm.sigma, 2) * eps[-1:]) / expand(last.frm.alpha, 2), rtol=1e-12
    )


def test_weights_of_the_linear_chain():
    """ε at Σ = β: .50, .27, .068, .010, .0055, .0102 at ℓ = 1, 2, 11, 101, 501, 1000; ε_step: 1/(2(1 − β))."""
    betas = tables.linear_betas(1000)
    index = jnp.array([1, 2, 11, 101, 501, 1000]) - 1
    step = tables.from_betas(betas).at(index)
    weights = per_step.weights(jnp.log(jnp.asarray(betas)[index]), step)
    np.testing.assert_allclose(weights.eps, [0.50, 0.27, 0.068, 0.010, 0.0055, 0.0102], rtol=0.04)
    np.testing.assert_allclose(weights.step_eps, 0.5 / (1 - betas[np.array(index)]), rtol=1e-12)
    np.testing.assert_allclose(weights.step_eps[jnp.array([0, -1])], [0.50005, 0.5102], atol=5e-5)
    np.testing.assert_allclose(weights.previous, 0.5 / betas[np.array(index)], rtol=1e-12)


def test_weights_turn_errors_of_a_prediction_into_the_same_kl():
    step = tables.from_betas(tables.linear_betas(50)).at(jnp.array([3, 20, 49]))
    z, eps, wrong = (jnp.asarray(np.random.default_rng(k).normal(size=(3, 4))) for k in (0, 1, 2))
    mean, log_variance = reverse.moments(z, split(eps, z, step.frm), step, "beta")
    mean_p, _ = reverse.moments(z, split(wrong, z, step.frm), step, "beta")
    kl = reverse.gaussian_kl(mean, log_variance, mean_p, log_variance)
    weights = per_step.weights(log_variance[:, 0], step)
    square = lambda a, b: np.sum(np.square(a - b), axis=1)
    to_step = lambda e: per_step.step_eps_from_eps(e, step)
    np.testing.assert_allclose(weights.eps * square(eps, wrong), kl, rtol=1e-9)
    np.testing.assert_allclose(weights.step_eps * square(to_step(eps), to_step(wrong)), kl, rtol=1e-9)
    np.testing.assert_allclose(weights.previous * square(mean, mean_p), kl, rtol=1e-9)


def test_variance_of_the_true_reverse_step_lies_outside_both_of_the_models():
    """σ²/(1 − σ²) (1 + σ² ∂² log p) at z = .2: .0200356, β̃ = .0196078, β = .02."""
    step, z, h = chain(), 0.2, 1e-4
    slope = np.diff(mixture_score(np.array([z - h, z + h]), ALPHA_BAR * (1 - STEP_VARIANCE)))[0] / (2 * h)
    true = STEP_VARIANCE / (1 - STEP_VARIANCE) * (1 + STEP_VARIANCE * slope)
    small, large = (float(jnp.exp(v[0])) for v in reverse.log_variances(step))
    np.testing.assert_allclose([true, small, large], [0.0200356, 0.0196078, 0.02], atol=5e-8)
    grid = np.linspace(-2, 2, 20_001)
    below = ALPHA_BAR * S**2 + 1 - ALPHA_BAR
    p = (PI / np.sqrt(below) * np.exp(-0.5 * (grid[:, None] - np.sqrt(ALPHA_BAR) * MU) ** 2 / below)).sum(1)
    p *= np.exp(-0.5 * (z - np.sqrt(1 - STEP_VARIANCE) * grid) ** 2 / STEP_VARIANCE)
    mean = (p * grid).sum() / p.sum()
    np.testing.assert_allclose((p * (grid - mean) ** 2).sum() / p.sum(), true, rtol=1e-6)


def gaussian_reverse(variance):
    """The reverse process that is exact for x ~ N(0, variance) if z_T is."""

    def reverse_step(z, step):
        eps = exact_eps(z, step.frm, variance)
        mean, deviation = posterior(z, eps, step.frm, step.to, step.delta)
        unknown = (
            variance * jnp.square(step.frm.sigma) / (jnp.square(step.frm.alpha) * variance + jnp.square(step.frm.sigma))
        )
        gain = step.to.alpha * -jnp.expm1(-step.delta)
        return mean, jnp.broadcast_to(jnp.log(jnp.square(deviation) + jnp.square(gain) * unknown), z.shape)

    return reverse_step


def paths(betas, x, count, seed=0):
    steps = tables.from_betas(betas).reverse()
    eps = jax.random.normal(jax.random.key(seed), (len(betas), count, *x.shape))
    return per_step.forward_path(jnp.broadcast_to(x[None], (count, *x.shape)), eps, steps), steps


def test_forward_path_has_the_marginals_of_the_chain():
    path, steps = paths(tables.constant_betas(0.1, 0.05), jnp.array([0.7, -2.0]), 40_000)
    alpha, sigma = steps.frm.alpha, steps.frm.sigma
    np.testing.assert_allclose(path[:-1].mean(1), expand(alpha, 2) * jnp.array([[0.7, -2.0]]), atol=0.025)
    np.testing.assert_allclose(path[:-1].std(1), jnp.broadcast_to(expand(sigma, 2), (len(alpha), 2)), rtol=0.02)


@pytest.mark.slow
def test_the_ratio_along_a_path_is_the_likelihood_where_the_model_is_exact():
    """−log p(x) on every path, without any variance, whatever the chain."""
    x = jnp.array([0.4, -1.1, 2.0])
    for betas in (tables.constant_betas(0.3, 0.2), tables.linear_betas(30)):
        path, steps = paths(betas, x, 50)
        last = jax.tree.map(lambda a: a[0], steps.frm)
        marginal = float(jnp.square(last.alpha) * 0.6 + jnp.square(last.sigma))
        values = bound(path, gaussian_reverse(0.6), steps, marginal)
        np.testing.assert_allclose(values, np.full(50, -log_normal(x[None], 0.6)[0]), rtol=1e-12)


@pytest.mark.slow
def test_numbers_of_both_forms_on_a_gaussian_chain():
    """x = .4 from N(0, ½), ten steps of σ² = .15, exact model: .7324 by either form, by KLs with a deviation of .80
    and by the ratio with none; at level 5 alone the log-ratio has .223 and the KL .031."""
    path, steps = paths(np.full(10, 0.15), jnp.array([0.4]), 100_000)
    last = jax.tree.map(lambda a: a[0], steps.frm)
    marginal = float(jnp.square(last.alpha) * 0.5 + jnp.square(last.sigma))
    model = gaussian_reverse(0.5)
    by_path = bound(path, model, steps, marginal)
    prior, kl, ratio = terms(path, model, steps, marginal)
    by_kl = prior + kl.sum(0)
    np.testing.assert_allclose(by_path, 0.732365, atol=1e-6)
    np.testing.assert_allclose(by_kl.mean(), 0.732365, atol=4 * 0.80 / np.sqrt(100_000))
    np.testing.assert_allclose([by_kl.std(), ratio[-5].std(), kl[-5].std()], [0.80, 0.223, 0.031], rtol=0.02)


def test_both_forms_of_the_bound_have_one_mean_for_any_model():
    path, steps = paths(tables.constant_betas(0.3, 0.2), jnp.array([0.4]), 50_000)
    exact = gaussian_reverse(0.6)
    model = lambda z, step: (exact(z, step)[0] + 0.1, exact(z, step)[1] + 0.5)
    by_path = bound(path, model, steps)
    prior, kl, _ = terms(path, model, steps)
    by_kl = prior + kl.sum(0)
    error = float((by_path - by_kl).std()) / np.sqrt(50_000)
    assert by_path.std() > 0.1 and by_kl.std() > 0.1
    assert abs(by_path.mean() - by_kl.mean()) < 4 * error < 0.02


@pytest.mark.slow
def test_log_ratios_of_the_levels_add_up_to_that_of_the_path():
    """−Σ log p(z_{ℓ−1}|z_ℓ)/q(z_ℓ|z_{ℓ−1}) telescopes for ℓ ≥ 2, path by path."""
    path, steps = paths(tables.linear_betas(40), jnp.array([0.4, 1.0]), 30)
    model = gaussian_reverse(0.6)
    _, _, ratios = terms(path, model, steps)
    last = jax.tree.map(lambda a: a[0], steps.frm)
    zero = jnp.zeros_like(path[0])
    log_q = per_step.log_normal(path[0], last.alpha * path[-1], zero + 2 * jnp.log(last.sigma))
    prior = log_q - per_step.log_normal(path[0], zero, zero)
    np.testing.assert_allclose(prior + ratios.sum(0), bound(path, model, steps), rtol=1e-9)


def test_the_kl_of_a_level_varies_less_than_its_log_ratio_and_has_its_mean():
    path, steps = paths(tables.constant_betas(0.3, 0.2), jnp.array([0.4]), 100_000)
    _, kl, ratio = terms(path, gaussian_reverse(0.6), steps)
    for level in range(len(kl) - 1):
        assert kl[level].std() < 0.5 * ratio[level].std()
        assert abs(kl[level].mean() - ratio[level].mean()) < 4 * ratio[level].std() / np.sqrt(100_000)
    np.testing.assert_array_equal(kl[-1], ratio[-1])


@pytest.mark.parametrize(
    ("step_variance", "remaining", "levels"), [(0.01, 0.01, 917), (0.02, 0.01, 456), (0.75, 0.25, 3)]
)
def test_fewest_steps_that_leave_less_than_delta(step_variance, remaining, levels):
    assert len(tables.constant_betas(step_variance, remaining)) == levels


def test_gamma_of_the_constant_chain():
    gamma = tables.gammas(np.full(500, 0.02))
    np.testing.assert_allclose(gamma[[0, 9, 499]], [-3.8918, -1.4966, 10.1013], atol=5e-5)
    time = 0.01 * np.arange(1, 501)  # of the Ornstein–Uhlenbeck process, t = ℓσ²/2, γ = log expm1(2t)
    assert np.abs(gamma - np.log(np.expm1(2 * time))).max() < 2 * 0.5 * 0.02 * 5 * 1.2
