import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.closed_forms import GAMMA_0, GAMMA_1, MAKERS, as_float64, exact_eps, level, monotone
from vdm_jax.diffusion import losses, schedules, times
from vdm_jax.diffusion.process import q_sample

KINDS = sorted(MAKERS)


@pytest.mark.parametrize("kind", KINDS)
def test_endpoints_are_exact_in_float32(kind):
    rng = np.random.default_rng(0)
    low = rng.uniform(-20, 0, 64).astype(np.float32)
    high = low + rng.uniform(0.1, 25, 64).astype(np.float32)

    def ends(low, high):
        schedule = MAKERS[kind](low, high)
        batched = schedule.gamma(jnp.array([0.0, 0.5, 1.0]))
        return schedule.gamma(jnp.zeros(())), schedule.gamma(jnp.ones(())), batched[0], batched[2]

    zero, one, first, last = jax.jit(jax.vmap(ends))(low, high)
    for value, wanted in ((zero, low), (first, low), (one, high), (last, high)):
        np.testing.assert_array_equal(value, wanted)
    np.testing.assert_array_equal(np.stack(ends(low[0], high[0])), [low[0], high[0]] * 2)  # no jit


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_monotone_network_holds_its_endpoints_whatever_its_weights(scale):
    def ends_and_path(seed):
        schedule = monotone(np.float32(-13.37), np.float32(5.19), seed, scale=scale)
        return jax.vmap(schedule.gamma)(jnp.array([0.0, 1.0])), schedule.gamma(jnp.linspace(0, 1, 1001))

    ends, path = jax.jit(jax.vmap(ends_and_path))(jnp.arange(16))
    np.testing.assert_array_equal(ends, np.tile(np.float32([-13.37, 5.19]), (16, 1)))
    np.testing.assert_array_equal(path[:, [0, -1]], ends)
    assert np.all(np.diff(path) >= 0)


def test_learned_endpoints_keep_their_order_when_the_span_changes_sign():
    low, high = schedules.learned_endpoints(jnp.asarray(-3.0), jnp.asarray(-2.0))
    assert (float(low), float(high)) == (-3.0, -1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_gamma_rises_and_dgamma_is_its_derivative(kind, x64):
    schedule = as_float64(MAKERS[kind](GAMMA_0, GAMMA_1))
    t = jnp.linspace(0.0005, 0.9995, 400)
    gamma, dgamma = jax.jit(schedule.gamma), jax.jit(schedule.dgamma)(t)
    assert np.all(np.diff(gamma(t)) > 0)
    np.testing.assert_allclose(dgamma, jax.jit(jax.vmap(jax.grad(schedule.gamma)))(t), rtol=1e-11)
    h = 1e-5
    np.testing.assert_allclose(dgamma, (gamma(t + h) - gamma(t - h)) / (2 * h), rtol=2e-4)


def test_cosine_is_the_formula_of_the_paper(x64):
    schedule = schedules.cosine(jnp.asarray(-13.3), jnp.asarray(5.0))
    t = np.linspace(0, 1, 101)
    b = np.arctan(np.exp(-13.3 / 2))
    a = np.arctan(np.exp(5.0 / 2)) - b
    np.testing.assert_allclose(schedule.gamma(jnp.asarray(t)), 2 * np.log(np.tan(a * t + b)), rtol=1e-11, atol=1e-11)


def test_untruncated_middle_of_the_cosine_is_alpha_equals_cos(x64):
    gamma = schedules.cosine(jnp.asarray(-30.0), jnp.asarray(30.0)).gamma(jnp.linspace(0.1, 0.9, 9))
    np.testing.assert_allclose(level(gamma).alpha, np.cos(np.pi / 2 * np.linspace(0.1, 0.9, 9)), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_timesteps", [10, 1000, 10**6])
def test_float32_delta_equals_the_float64_difference(kind, num_timesteps):
    """No cancellation: γ_t − γ_s of two float32 numbers would be 6 % off at T = 10⁶."""
    i = np.unique(np.linspace(1, num_timesteps, 2000).astype(np.int64))
    t, dt = (i / num_timesteps).astype(np.float32), np.float32(1 / num_timesteps)
    t = np.maximum(t, dt)
    schedule = MAKERS[kind](np.float32(GAMMA_0), np.float32(GAMMA_1))
    delta = jax.jit(schedule.delta)(t, dt)
    assert delta.dtype == jnp.float32
    with jax.enable_x64(True):
        double, t64, dt64 = as_float64(schedule), jnp.asarray(t, jnp.float64), jnp.asarray(dt, jnp.float64)
        wanted = jax.jit(lambda t, dt: double.gamma(t) - double.gamma(t - dt))(t64, dt64)
    np.testing.assert_allclose(delta, wanted, rtol=1e-6)


def test_monotone_delta_keeps_its_precision_where_every_unit_is_saturated():
    leaves = {"skip": 0.0, "rate": np.float32([3.0, 5.0]), "bias": np.float32([30.0, -40.0]), "out": np.float32([1, 1])}
    shape = schedules.Monotone(**jax.tree.map(jnp.asarray, leaves))
    t, dt = np.float32([0.1, 0.5, 1.0]), np.float32(0.1)
    with jax.enable_x64(True):
        double = as_float64(shape)
        slope = np.asarray(jax.jit(double.slope)(jnp.asarray(t, jnp.float64)))
        x = lambda t: 0.5 * (np.array([3.0, 5.0]) * (2 * t - 1) + np.array([30.0, -40.0]))
        logistic = lambda t: -np.sign(x(t)) * 2 / (1 + np.exp(2 * np.abs(x(t))))  # tanh x − sign x
        rise = lambda t, s: np.sum(logistic(t) - logistic(s))
        wanted = [rise(a, a - b) / rise(1.0, 0.0) for a, b in zip(t.astype(float), [float(dt)] * 3, strict=True)]
    np.testing.assert_allclose(jax.jit(shape.delta)(t, dt), wanted, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(shape.slope)(t), slope, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_timesteps", [1000, 10**6])
def test_discrete_loss_in_float32_agrees_with_float64(kind, num_timesteps):
    rng = np.random.default_rng(1)
    x = rng.choice([-1.0, 1.0], (1024, 16)) / np.sqrt(3)
    eps = rng.standard_normal((1024, 16)).astype(np.float32)
    t = ((np.arange(1024) + 0.5) / 1024).astype(np.float32)

    def loss(schedule, x, eps, t):
        t = times.to_grid(t, num_timesteps)
        delta = schedule.delta(t, jnp.full((), 1 / num_timesteps, t.dtype))
        noise = level(schedule.gamma(t))
        error = losses.squared_error(eps, exact_eps(q_sample(x, eps, noise), noise))
        return jnp.mean(losses.discrete_weight(delta, num_timesteps) * error)

    schedule = MAKERS[kind](np.float32(GAMMA_0), np.float32(GAMMA_1))
    single = jax.jit(loss)(schedule, jnp.asarray(x, jnp.float32), jnp.asarray(eps), jnp.asarray(t))
    assert single.dtype == jnp.float32
    with jax.enable_x64(True):
        double = jax.jit(loss)(*as_float64((schedule, x.astype(np.float32), eps, t)))
    np.testing.assert_allclose(single, double, rtol=1e-6)


def _weight_error(difference, num_timesteps, exponential):
    """Largest relative error of expm1(γ_t − γ_s) over the grid of a linear schedule."""
    exact = np.expm1((GAMMA_1 - GAMMA_0) / num_timesteps)
    return np.max(np.abs(np.asarray(exponential(difference), np.float64) / exact - 1))


@pytest.mark.parametrize(
    ("num_timesteps", "subtracted", "without_expm1"),
    [(100, 8e-6, 2e-7), (1000, 6e-5, 1.5e-6), (10**5, 1e-2, 2e-4), (10**6, 6e-2, 3e-3)],
)
def test_what_subtracting_float32_gammas_costs(num_timesteps, subtracted, without_expm1):
    """Subtraction loses digits before expm1 sees them; the schedule's difference does not."""
    gamma = schedules.linear(np.float32(GAMMA_0), np.float32(GAMMA_1))
    i = jnp.arange(num_timesteps + 1).astype(jnp.float32) / np.float32(num_timesteps)
    values = gamma.gamma(i)
    error = _weight_error(values[1:] - values[:-1], num_timesteps, jnp.expm1)
    assert subtracted / 2 < error < subtracted * 2
    delta = gamma.delta(jnp.ones(1), jnp.float32(1 / num_timesteps))
    assert _weight_error(delta, num_timesteps, jnp.expm1) < 3e-7
    naive = _weight_error(delta, num_timesteps, lambda d: jnp.exp(d) - 1)
    assert without_expm1 / 2 < naive < without_expm1 * 2


def test_what_bfloat16_gammas_cost():
    """A third of the 1,000 differences vanish; an exact difference still needs expm1."""
    values = schedules.linear(GAMMA_0, GAMMA_1).gamma(jnp.arange(1001) / 1000).astype(jnp.bfloat16)
    vanished = np.mean(np.asarray(values[1:]) == np.asarray(values[:-1]))
    assert 0.30 < vanished < 0.34
    delta = jnp.asarray((GAMMA_1 - GAMMA_0) / 1000, jnp.bfloat16)
    assert 0.13 < _weight_error(delta, 1000, lambda d: jnp.exp(d) - 1) < 0.17
    assert 0.001 < _weight_error(delta, 1000, jnp.expm1) < 0.003


@pytest.mark.parametrize("kind", KINDS)
def test_inverse_finds_the_time_of_a_gamma(kind, x64):
    schedule = as_float64(MAKERS[kind](GAMMA_0, GAMMA_1))
    t = jnp.linspace(0, 1, 21)
    found = jax.jit(lambda t: schedules.inverse(schedule, schedule.gamma(t)))(t)
    np.testing.assert_allclose(found, t, atol=1e-10)


def test_a_fresh_monotone_network_is_near_the_identity():
    t = jnp.linspace(0, 1, 101)
    value = MAKERS["fresh_monotone"](0.0, 1.0).gamma(t)
    # The bends make up 0.2 of the rise of 1.2, and 64 random centers miss the uniform distribution by at
    # most 1.63/√64 at the 99 % level of Kolmogorov's test.
    np.testing.assert_allclose(value, t, atol=0.2 / 1.2 * 1.63 / 8)
    assert np.abs(value - t).max() > 1e-4


def test_gradients_reach_the_endpoints_and_the_path():
    schedule = monotone(np.float32(-8), np.float32(5))
    t = jnp.linspace(0, 1, 11)
    gradient = jax.jit(jax.grad(lambda s: jnp.sum(s.gamma(t))))(schedule)
    share = schedule.shape.value(t)
    np.testing.assert_allclose(gradient.gamma_0, jnp.sum(1 - share), rtol=1e-5)
    np.testing.assert_allclose(gradient.gamma_1, jnp.sum(share), rtol=1e-5)
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(gradient.shape))
    ends = jax.jit(jax.grad(lambda s: jnp.sum(s.gamma(jnp.array([0.0, 1.0])))))(schedule)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(ends.shape))
