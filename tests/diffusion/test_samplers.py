import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.closed_forms import MAKERS, VARIANCE, exact_predict, level, marginal
from vdm_jax.diffusion import prediction, samplers, schedules
from vdm_jax.diffusion.process import VE, VP, noise

GAMMA_0, GAMMA_1 = -8.0, 5.0
SHAPE = (3, 3, 1)


def grid_steps(kind="linear", grid=None, process=VP, num_steps=20):
    grid = samplers.uniform_grid(num_steps) if grid is None else grid
    level_of = lambda gamma: noise(gamma, gamma, process)
    return jax.jit(lambda: samplers.transitions(MAKERS[kind](GAMMA_0, GAMMA_1), grid, level_of))()


def sample(rule, steps, keys, shape=SHAPE, **options):
    @jax.jit
    def whole(keys):
        z = samplers.prior_sample(jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys), shape, jnp.asarray(GAMMA_1))
        return samplers.run(rule, z, jax.vmap(lambda k: jax.random.fold_in(k, 2))(keys), steps, **options)

    return whole(keys)


def exact_map(process=VP):
    """The flow from γ₁ to γ₀ multiplies by √(Var z_0 / Var z_1)."""
    return float(jnp.sqrt(marginal(level(GAMMA_0, process)) / marginal(level(GAMMA_1, process))))


@pytest.mark.parametrize("kind", ["linear", "cosine", "monotone"])
@pytest.mark.parametrize("num_steps", [1, 7])
def test_transitions_chain_and_carry_the_difference_of_gamma(kind, num_steps, x64):
    steps = grid_steps(kind, num_steps=num_steps)
    assert steps.delta.shape == (num_steps,)
    np.testing.assert_allclose((steps.frm.gamma[0], steps.to.gamma[-1]), (GAMMA_1, GAMMA_0), rtol=0)
    np.testing.assert_array_equal(steps.frm.gamma[1:], steps.to.gamma[:-1])
    np.testing.assert_allclose(steps.delta, steps.frm.gamma - steps.to.gamma, rtol=1e-10)
    np.testing.assert_array_equal(steps.number, np.arange(num_steps))


def test_deltas_of_a_long_grid_are_exact_in_float32():
    steps = grid_steps(num_steps=10_000)
    np.testing.assert_allclose(steps.delta, (GAMMA_1 - GAMMA_0) / 10_000, rtol=2e-7)


@pytest.mark.parametrize("grid", [[1.0], [0.0, 1.0], [1.0, 0.5, 0.5, 0.0]])
def test_grids_that_do_not_decrease_are_refused(grid):
    with pytest.raises(ValueError, match="must decrease strictly"):
        grid_steps(grid=np.array(grid))


def test_ddim_with_eta_1_is_ancestral_sampling(x64):
    keys, steps = jax.random.split(jax.random.key(0), 4), grid_steps("cosine")
    one, _ = sample(samplers.ddim(exact_predict(), eta=1.0), steps, keys)
    other, _ = sample(samplers.ancestral(exact_predict()), steps, keys)
    np.testing.assert_allclose(one, other, rtol=1e-10)


@pytest.mark.parametrize("process", [VP, VE], ids=["vp", "ve"])
def test_ddim_of_a_gaussian_is_a_product_of_factors(process, x64):
    """z_s = (α_s α_t s² + σ_s σ_t)/(α_t² s² + σ_t²) z_t."""
    steps = grid_steps("cosine", process=process)
    z = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5)))
    keys = jax.random.split(jax.random.key(0), 2)
    ours, _ = samplers.run(samplers.ddim(exact_predict()), z, keys, steps)
    frm, to = steps.frm, steps.to
    factors = (to.alpha * frm.alpha * VARIANCE + to.sigma * frm.sigma) / marginal(frm)
    np.testing.assert_allclose(ours, z * np.prod(factors), rtol=1e-12)


@pytest.mark.parametrize("process", [VP, VE], ids=["vp", "ve"])
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2)])
def test_solvers_converge_to_the_flow_at_their_order(name, order, process, x64):
    rule = {
        "ddim": lambda: samplers.ddim(exact_predict()),
        "euler": lambda: samplers.euler(exact_predict(), process),
        "heun": lambda: samplers.heun(exact_predict(), process),
    }[name]()
    z, keys = jnp.ones((1, 1)), jax.random.split(jax.random.key(0), 1)
    ends = [samplers.run(rule, z, keys, grid_steps(process=process, num_steps=n))[0] for n in (200, 400, 800)]
    errors = np.abs(np.ravel(ends) / exact_map(process) - 1)
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), order, atol=0.1)
    assert errors[-1] < {1: 0.02, 2: 2e-4}[order]


@pytest.mark.parametrize("kind", ["linear", "cosine", "monotone"])
def test_any_schedule_and_a_grid_of_any_spacing_end_at_the_same_place(kind, x64):
    """The flow depends on the path of γ only through its steps."""
    grid = np.concatenate([np.linspace(1, 0.6, 150), np.linspace(0.59, 0, 223)])
    z, keys = jnp.ones((1, 2)), jax.random.split(jax.random.key(0), 1)
    end, _ = samplers.run(samplers.heun(exact_predict()), z, keys, grid_steps(kind, grid))
    np.testing.assert_allclose(end, exact_map(), rtol=5e-3)


def ancestral_variance(steps):
    """Var z_s = c² Var z_t + σ_Q² with c = (α_s/α_t)(1 + expm1(−δ) σ_t · σ_t/(α_t² s² + σ_t²)), from N(0, 1)."""
    frm, to, variance = steps.frm, steps.to, 1.0
    shrink = np.expm1(-np.asarray(steps.delta, np.float64))
    factors = (to.alpha / frm.alpha) * (1 + shrink * frm.sigma**2 / marginal(frm))
    for c, added in zip(np.asarray(factors), -shrink * np.asarray(to.sigma) ** 2, strict=True):
        variance = c**2 * variance + added
    return variance


@pytest.mark.parametrize("num_steps", [3, 20])
def test_ancestral_sampling_has_the_variance_of_its_recursion(num_steps):
    steps = grid_steps("cosine", num_steps=num_steps)
    keys = jax.random.split(jax.random.key(0), 8000)
    z, _ = jax.jit(lambda keys: sample(samplers.ancestral(exact_predict()), steps, keys, (16,)))(keys)
    np.testing.assert_allclose(np.var(z), ancestral_variance(steps), rtol=0.02)
    np.testing.assert_allclose(np.mean(z), 0, atol=0.01)


def test_ancestral_variance_tends_to_that_of_the_data(x64):
    """Too small by O(1/T): σ_Q² leaves out the uncertainty of x."""
    target = float(marginal(level(GAMMA_0)))
    errors = [1 - ancestral_variance(grid_steps(num_steps=n)) / target for n in (250, 500, 1000)]
    assert 0 < errors[-1] < 0.02
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 2, rtol=0.05)


def seen_noise(batch_keys):
    """z_1 and the z of every step of a chain whose denoiser says nothing: noise alone."""
    silent = lambda z, level: prediction.Prediction(jnp.zeros_like(z), jnp.zeros_like(z))
    steps = grid_steps(num_steps=5)
    z, path = sample(samplers.ancestral(silent), steps, batch_keys, (4, 4, 2), keep=range(5))
    return z, path


@pytest.mark.slow
def test_an_image_gets_the_same_noise_whatever_the_batch_size():
    keys = jax.random.split(jax.random.key(0), 8)
    run = jax.jit(seen_noise)
    whole, path = run(keys)
    for part in (slice(0, 3), slice(3, 8), slice(7, 8)):
        some, some_path = run(keys[part])
        np.testing.assert_array_equal(some, whole[part])
        np.testing.assert_array_equal(some_path, path[:, part])
    assert len(np.unique(path)) == path.size  # no two draws alike, across images, pixels and steps


def test_an_image_gets_the_same_noise_on_two_devices():
    keys = jax.random.split(jax.random.key(0), 8)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    halves = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    spread, _ = jax.jit(seen_noise)(jax.device_put(keys, halves))
    assert len(spread.sharding.device_set) == 2
    np.testing.assert_array_equal(spread, jax.jit(seen_noise)(keys)[0])


def test_prior_sample_has_the_prior_of_its_process():
    keys = jax.random.split(jax.random.key(0), 4000)
    gamma_1 = jnp.float32(2.0)
    np.testing.assert_allclose(np.var(samplers.prior_sample(keys, (8,), gamma_1)), 1, rtol=0.03)
    np.testing.assert_allclose(np.var(samplers.prior_sample(keys, (8,), gamma_1, VE)), 1 + np.exp(2.0), rtol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ancestral", "ddim", "euler", "heun"])
def test_the_path_is_an_option_and_ends_at_the_result(name):
    rule, keys = getattr(samplers, name)(exact_predict()), jax.random.split(jax.random.key(0), 2)
    steps = grid_steps(num_steps=6)
    alone, nothing = sample(rule, steps, keys)
    last, path = sample(rule, steps, keys, keep=range(6))
    assert len(nothing) == 0 and path.shape == (6, 2, *SHAPE)
    np.testing.assert_array_equal(path[-1], last)
    np.testing.assert_allclose(alone, last, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [(0,), (5,), (2,), (0, 1, 4), (1, 3, 5)])
def test_some_states_of_the_path_are_those_of_the_whole(keep):
    rule, keys = samplers.ancestral(exact_predict()), jax.random.split(jax.random.key(0), 2)
    last, path = sample(rule, grid_steps(num_steps=6), keys, keep=range(6))
    same, some = sample(rule, grid_steps(num_steps=6), keys, keep=keep)
    np.testing.assert_allclose(some, path[np.asarray(keep)], rtol=1e-6)
    np.testing.assert_allclose(same, last, rtol=1e-6)


def test_predictor_gives_the_network_one_level_and_one_condition_per_example():
    def denoise(z, level, cond):
        assert level.gamma.shape == level.t.shape == cond.shape == z.shape[:1]
        return z * (level.t + cond).reshape(-1, 1)

    predict = samplers.predictor(denoise, prediction.split, jnp.array([1.0, 2.0]))
    scalar = noise(jnp.float32(-1.0), jnp.float32(0.25))
    out = predict(jnp.ones((2, 3)), scalar)
    np.testing.assert_allclose(out.eps, [[1.25] * 3, [2.25] * 3])
    np.testing.assert_allclose(scalar.alpha * out.x + scalar.sigma * out.eps, 1, rtol=1e-6)


def test_a_grid_even_in_gamma_comes_from_the_inverse_schedule(x64):
    schedule = schedules.cosine(jnp.asarray(GAMMA_0), jnp.asarray(GAMMA_1))
    even_in_gamma = jnp.linspace(GAMMA_1, GAMMA_0, 400)
    grid = np.asarray(schedules.inverse(schedule, even_in_gamma)).copy()
    grid[[0, -1]] = 1.0, 0.0
    steps = samplers.transitions(schedule, grid, lambda gamma: noise(gamma, gamma))
    np.testing.assert_allclose(steps.delta, (GAMMA_1 - GAMMA_0) / 399, rtol=1e-6)
    z, keys = jnp.ones((1, 1)), jax.random.split(jax.random.key(0), 1)
    end, _ = samplers.run(samplers.heun(exact_predict()), z, keys, steps)
    np.testing.assert_allclose(end, exact_map(), rtol=1e-3)
