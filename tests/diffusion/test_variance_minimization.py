"""The path of γ that minimizes the variance of the bound's estimate (VDM, appendix I.2)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.diffusion.closed_forms import (
    MAKERS,
    as_float64,
    error,
    exact_eps,
    fresh_monotone,
    l_infinity,
    level,
    monotone,
)
from vdm_jax.diffusion import losses, schedules
from vdm_jax.diffusion.process import q_sample
from vdm_jax.optimizer import promoting

GAMMA_0, GAMMA_1, VARIANCE, D = -8.0, 5.0, 1 / 3, 64


def moments(gamma, weight):
    """Mean and variance of L = ½ γ′ ‖ε − ε̂‖² over t and ε in nats, for D dimensions; weight = ½ γ′ at even t."""
    per_dim = np.asarray(weight) * error(gamma, VARIANCE)
    mean = D * np.mean(per_dim)
    return mean, (D**2 + 2 * D) * np.mean(per_dim**2) - mean**2


def moments_of(schedule, points=20_000):
    t = (jnp.arange(float(points)) + 0.5) / points
    gamma, dgamma = jax.jit(lambda t: (schedule.gamma(t), schedule.dgamma(t)))(t)
    return moments(gamma, losses.continuous_weight(dgamma))


def test_variance_of_the_linear_and_of_the_best_path(x64):
    """γ′ ∝ 1/sigmoid(ln s² − γ) makes ½ γ′ E‖ε − ε̂‖² constant: the variance falls from 32,287 to (2/D) E[L]²."""
    mean, linear = moments_of(schedules.linear(jnp.asarray(GAMMA_0), jnp.asarray(GAMMA_1)))
    np.testing.assert_allclose(linear, 32_287, atol=0.5)
    np.testing.assert_allclose(mean, D * l_infinity(GAMMA_0, GAMMA_1, VARIANCE), rtol=1e-6)

    # dt ∝ sigmoid(ln s² − γ) dγ: t(γ) = (c(γ) − c(γ₀))/(c(γ₁) − c(γ₀)), c = γ − softplus(γ − ln s²)
    gamma = np.linspace(GAMMA_0, GAMMA_1, 2_000_001)
    c = gamma - np.logaddexp(0, gamma - np.log(VARIANCE))
    best_gamma = np.interp((np.arange(100_000) + 0.5) / 100_000, (c - c[0]) / (c[-1] - c[0]), gamma)
    slope = (c[-1] - c[0]) / error(best_gamma, VARIANCE)
    best_mean, best = moments(best_gamma, losses.continuous_weight(slope))
    np.testing.assert_allclose(best_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(best, 1523.6, atol=0.05)
    np.testing.assert_allclose(best, 2 / D * mean**2, rtol=1e-5)


def network_error(theta, gamma, eps):
    """A squared error [b] that depends on parameters, γ and noise, like that of a network."""
    hidden = jnp.tanh(theta["w"] * gamma.reshape(-1, 1) + theta["b"] * eps)
    return jnp.sum(jnp.square(eps - hidden), axis=1)


@pytest.mark.parametrize(
    "kind", [pytest.param("linear", marks=pytest.mark.slow), pytest.param("cosine", marks=pytest.mark.slow), "monotone"]
)
def test_one_backward_pass_gives_both_gradients(kind, x64):
    """Path: ∇ Σ w L² with the endpoints stopped. Endpoints: ∇ Σ w L with the path stopped. Network: ∇ Σ w L."""
    rng = np.random.default_rng(0)
    b, weight = 7, 0.013
    t, eps = jnp.asarray(rng.uniform(size=b)), jnp.asarray(rng.standard_normal((b, 5)))
    theta = {"w": jnp.asarray(rng.standard_normal((1, 5))), "b": jnp.asarray(rng.standard_normal((1, 5)))}
    schedule = as_float64(MAKERS[kind](GAMMA_0, GAMMA_1))

    def each(theta, gamma, dgamma):
        return losses.continuous_weight(dgamma) * network_error(theta, gamma, eps)

    @jax.jit
    @jax.value_and_grad
    def ours(leaves):
        theta, schedule = leaves
        return jnp.sum(weight * each(theta, *schedules.minimize_variance(schedule, t, weight)))

    def power(theta, schedule, power):
        return jnp.sum(weight * each(theta, schedule.gamma(t), schedule.dgamma(t)) ** power)

    value, (theta_grad, gradient) = ours((theta, schedule))
    np.testing.assert_allclose(value, power(theta, schedule, 1), rtol=1e-12)
    for name, wanted in jax.grad(power)(theta, schedule, 1).items():
        np.testing.assert_allclose(theta_grad[name], wanted, rtol=1e-11)

    # endpoints: through γ₀ and γ₁ alone, the shape being a function of t only
    ends = jax.grad(lambda g: power(theta, schedules.Schedule(*g, schedule.shape), 1))(schedule[:2])
    np.testing.assert_allclose((gradient.gamma_0, gradient.gamma_1), ends, rtol=1e-11)
    path = jax.grad(lambda shape: power(theta, schedules.Schedule(*schedule[:2], shape), 2))(schedule.shape)
    for mine, wanted in zip(jax.tree.leaves(gradient.shape), jax.tree.leaves(path), strict=True):
        # the endpoints that a cosine is made of are endpoints, not a path
        np.testing.assert_allclose(mine, np.zeros_like(wanted) if kind == "cosine" else wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("weight", [1.0, 1e-5])
def test_value_is_that_of_the_schedule(weight):
    schedule, t = monotone(np.float32(GAMMA_0), np.float32(GAMMA_1)), jnp.linspace(0, 1, 11)
    gamma, dgamma = jax.jit(lambda t: schedules.minimize_variance(schedule, t, weight))(t)
    np.testing.assert_allclose(gamma, schedule.gamma(t), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(dgamma, schedule.dgamma(t), rtol=1e-6)


def train(minimize, steps=600, batch=256):
    """Adam on a monotone path with fixed endpoints and the exact denoiser; independent times."""
    start = fresh_monotone(np.float32(GAMMA_0), np.float32(GAMMA_1), features=64)
    optimizer = promoting(optax.adam(optax.cosine_decay_schedule(0.05, steps)))

    def loss(shape, key):
        schedule = schedules.Schedule(start.gamma_0, start.gamma_1, shape)
        keys = jax.random.split(key, 3)
        t = jax.random.uniform(keys[0], (batch,))
        if minimize:
            gamma, dgamma = schedules.minimize_variance(schedule, t, 1 / batch)
        else:
            gamma, dgamma = schedule.gamma(t), schedule.dgamma(t)
        noise = level(gamma)
        x, eps = jax.random.normal(keys[1], (batch, D)) * VARIANCE**0.5, jax.random.normal(keys[2], (batch, D))
        error = losses.squared_error(eps, exact_eps(q_sample(x, eps, noise), noise, VARIANCE))
        each = losses.continuous_weight(dgamma) * error
        return jnp.mean(each), each

    def step(carry, key):
        shape, state = carry
        gradient, each = jax.grad(loss, has_aux=True)(shape, key)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(shape, updates), state), each

    keys = jax.random.split(jax.random.key(0), steps)
    (shape, _), each = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))(
        (start.shape, optimizer.init(start.shape))
    )
    return start, schedules.Schedule(start.gamma_0, start.gamma_1, shape), np.asarray(each)


@pytest.mark.slow
def test_training_the_path_brings_the_variance_to_its_optimum_and_leaves_the_bound():
    start, trained, each = train(minimize=True)
    mean_before, before = moments_of(start)
    mean_after, after = moments_of(trained)
    assert before > 20_000
    assert 1523 < after < 1.6 * 1523.6
    np.testing.assert_allclose(mean_after, mean_before, rtol=1e-4)
    # the same from the losses that were seen: the last 50 steps against the first one
    np.testing.assert_allclose(each[-50:].var(), after, rtol=0.1)
    np.testing.assert_allclose(each[-50:].mean(), mean_before, rtol=0.01)
    np.testing.assert_array_equal(trained.gamma(jnp.array([0.0, 1.0])), np.float32([GAMMA_0, GAMMA_1]))


@pytest.mark.slow
def test_the_gradient_of_the_bound_itself_does_not_lower_the_variance():
    """∇E[L] of the path is zero in expectation: only noise moves it."""
    start, trained, _ = train(minimize=False)
    assert moments_of(trained)[1] > 0.5 * moments_of(start)[1]
