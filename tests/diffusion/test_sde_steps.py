"""Step rules of the score SDEs: laws of one step with an exact score, limits, and parity with the original's code."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from tests.diffusion.closed_forms import exact_predict, level, marginal
from tests.diffusion.mixtures import THREE
from vdm_jax.diffusion import prediction, reverse, samplers, sde_schedules, sde_steps, tables
from vdm_jax.diffusion.process import SUB_VP, VE, VP, noise

PROCESSES = {"vp": VP, "sub_vp": SUB_VP, "ve": VE}
# sub-VP, the longest to compile, is slow; all processes stand in test_flows_of_all_processes_are_one
KINDS = [pytest.param(kind, marks=[pytest.mark.slow] * (kind == "sub_vp")) for kind in sorted(PROCESSES)]
GOLDENS = Path(__file__).parents[1] / "goldens" / "score_sde" / "steps.npz"


def transition(kind, gamma_t, gamma_s):
    process = PROCESSES[kind]
    frm, to = level(gamma_t, process), level(gamma_s, process)
    zero = jnp.zeros((), int)
    return samplers.Transition(frm, to, jnp.asarray(gamma_t) - jnp.asarray(gamma_s), zero, jnp.asarray(-jnp.inf))


def affine(rule, step, keys):
    """z → c z + n for an exact Gaussian score: (c, n) of each example [B], by steps from 0 and 1."""
    zero = rule(keys, jnp.zeros((len(keys), 1)), step)
    return (rule(keys, jnp.ones((len(keys), 1)), step) - zero)[:, 0], zero[:, 0]


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("kind", KINDS)
def test_euler_maruyama_of_a_gaussian(kind, x64):
    """c = 1 − h (d log α/dγ + σ²/v), noise σ √h ε, v = α² s² + σ²; h = δ or what is given."""
    step, process, keys = transition(kind, 1.2, 0.9), PROCESSES[kind], keys_of(5)
    for h, elapsed in ((0.3, None), (0.05, jnp.array([0.05]))):
        rule = sde_steps.euler_maruyama(exact_predict(), process, elapsed)
        c, n = affine(rule, step, keys)
        rate = process.dlog_alpha(step.frm.gamma) + step.frm.sigma**2 / marginal(step.frm)
        np.testing.assert_allclose(c, 1 - h * rate, rtol=1e-12)
        eps = samplers.normal(keys, jnp.zeros((5, 1)))[:, 0]
        np.testing.assert_allclose(n, step.frm.sigma * np.sqrt(h) * eps, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_reverse_sde_keeps_the_marginals_as_steps_shrink(kind, x64):
    """Variance under the exact recursion of N steps: the data's, with an error that halves as N doubles."""
    process, keys, errors = PROCESSES[kind], keys_of(1), []
    for count in (200, 400, 800):
        gammas = jnp.linspace(4.0, -4.0, count + 1)
        variance = float(marginal(level(4.0, process)))
        step = transition(kind, gammas[:-1], gammas[1:])
        one = lambda s: affine(sde_steps.euler_maruyama(exact_predict(), process), s, keys)
        c, n = jax.vmap(one)(step._replace(number=jnp.zeros(count, int), floor=jnp.zeros(count)))
        added = (n[:, 0] / samplers.normal(keys, jnp.zeros((1, 1)))[0, 0]) ** 2
        for gain, more in zip(np.asarray(c[:, 0]), np.asarray(added), strict=True):
            variance = gain**2 * variance + more
        errors.append(variance / float(marginal(level(-4.0, process))) - 1)
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 2, rtol=0.1)
    assert abs(errors[-1]) < 0.002


@pytest.mark.parametrize("kind", KINDS)
def test_reverse_diffusion_of_a_gaussian(kind, x64):
    """c = 2 − a − b²/v, noise b ε with the kernel q(z_t|z_s) = N(a z_s, b²), b² = σ_t² − a² σ_s²."""
    step, keys = transition(kind, 1.2, 0.9), keys_of(5)
    c, n = affine(sde_steps.reverse_diffusion(exact_predict()), step, keys)
    a = step.frm.alpha / step.to.alpha
    b2 = step.frm.sigma**2 - a**2 * step.to.sigma**2
    np.testing.assert_allclose(c, 2 - a - b2 / marginal(step.frm), rtol=1e-10)
    np.testing.assert_allclose(n, np.sqrt(b2) * samplers.normal(keys, jnp.zeros((5, 1)))[:, 0], rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_annealed_langevin_steps_converge_to_their_level(kind, x64):
    """v ← (1 − h/v*)² v + 2h, whose fixed point is v*/(1 − h/(2 v*)): a little above the level's v*."""
    step, r, count = transition(kind, 0.5, 0.5), 0.2, 3
    keys = keys_of(20_000)
    run = lambda size, n: sde_steps.langevin(exact_predict(), size(r), n)
    c, n = jax.jit(partial(affine, run(sde_steps.by_sigma, count), step))(keys)
    h, v = 2 * (r * step.frm.sigma) ** 2, marginal(step.frm)
    np.testing.assert_allclose(c, (1 - h / v) ** count, rtol=1e-10)
    np.testing.assert_allclose(np.var(n), 2 * h * sum((1 - h / v) ** (2 * k) for k in range(count)), rtol=0.03)
    np.testing.assert_allclose(np.mean(n), 0, atol=4 * np.std(n) / 141)
    end = jax.jit(run(sde_steps.by_sigma, 200))(keys[:4000], jnp.zeros((4000, 1)), step)
    np.testing.assert_allclose(np.var(end), v / (1 - h / (2 * v)), rtol=0.09)


@pytest.mark.parametrize("kind", KINDS)
def test_langevin_step_by_norms_has_the_ratio_it_is_told(kind, x64):
    """√(2h) ‖ε‖ over h ‖score‖ is 1/(√a r): signal to noise is r, of every example by itself."""
    step, r, keys = transition(kind, 0.5, 0.2), 0.16, keys_of(3)
    z = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 4, 1))) * jnp.array([0.1, 1, 10]).reshape(
        3, 1, 1, 1
    )
    rule = sde_steps.langevin(exact_predict(), sde_steps.by_norms(r), 1)
    out = rule(keys, z, step)
    eps = samplers.normal(jax.vmap(lambda k: jax.random.fold_in(k, 0))(keys), z)
    score = -z / marginal(step.frm)
    a = (step.frm.alpha / step.to.alpha) ** 2
    for i in range(3):
        h = 2 * a * (r * np.linalg.norm(eps[i]) / np.linalg.norm(score[i])) ** 2
        np.testing.assert_allclose(out[i], z[i] + h * score[i] + np.sqrt(2 * h) * eps[i], rtol=1e-10)
    np.testing.assert_allclose(out[:1], rule(keys[:1], z[:1], step), rtol=1e-12)


def test_step_sizes_of_ncsn_and_ncsnv2():
    """Its code: 2·10⁻⁵ σ²/σ_L² on 10 levels from 1 to .01; NCSNv2: 6.2·10⁻⁶."""
    sigma = np.geomspace(1, 0.01, 10)
    for r, step_size in ((0.3162, 2e-5), (0.176, 6.2e-6)):
        for s in sigma:
            one = transition("ve", 2 * np.log(s), 2 * np.log(s))
            h = sde_steps.by_sigma(r)(jnp.zeros((1, 1)), jnp.zeros((1, 1)), one)
            np.testing.assert_allclose(h, step_size * s**2 / sigma[-1] ** 2, rtol=3e-3)


def test_visits_stay_once_at_every_level():
    schedule = sde_schedules.ve(0.01, 1.0)
    steps = samplers.transitions(schedule, samplers.uniform_grid(9), lambda g: noise(g, g, VE))
    stays = sde_steps.visits(steps)
    np.testing.assert_allclose(stays.frm.sigma, np.geomspace(1, 0.01, 10), rtol=1e-5)
    np.testing.assert_array_equal(stays.to.gamma, stays.frm.gamma)
    np.testing.assert_array_equal(stays.number, np.arange(10))


def end_variance(rule, steps, count):
    """Of samples that start at the quantiles of N(0, 100)."""
    start = 10 * norm.ppf((np.arange(count) + 0.5) / count)[:, None]
    end, _ = jax.jit(lambda k, z: samplers.run(rule, z, k, steps))(keys_of(count), jnp.asarray(start))
    return float(np.var(end))


@pytest.mark.slow
def test_the_update_without_noise_collapses(x64):
    """400 log-spaced steps in the variance t of VE from 100 to 10⁻⁴ on a mixture of variance .7225:
    flow .737, reverse SDE .731, and the SDE's drift without its noise .0056."""
    t = np.geomspace(100, 1e-4, 401)
    steps = transition("ve", jnp.log(t[:-1]), jnp.log(t[1:]))
    steps = steps._replace(number=jnp.arange(400), floor=jnp.zeros(400))
    elapsed = jnp.asarray((t[:-1] - t[1:]) / t[:-1])  # g = 1 in the time t
    scaled = lambda c: lambda z, now: prediction.Prediction(z, c * THREE.predict(z, now).eps)
    in_t = steps._replace(delta=elapsed)
    np.testing.assert_allclose(THREE.variance, 0.7225)
    np.testing.assert_allclose(end_variance(samplers.euler(scaled(1.0), VE), in_t, 500), 0.737, atol=0.005)
    np.testing.assert_allclose(end_variance(samplers.euler(scaled(2.0), VE), in_t, 500), 0.0056, atol=2e-4)
    sde = sde_steps.euler_maruyama(THREE.predict, VE, elapsed)
    np.testing.assert_allclose(end_variance(sde, steps, 5000), 0.731, atol=3.5 * 0.731 * np.sqrt(2 / 5000))


@pytest.mark.parametrize("kind", KINDS)
def test_tweedie_scores_and_the_last_step(kind, x64):
    """(α E[x|z] − z)/σ² is the score of the mixture, (E[y|z] − z)/t for VE of variance t; x̂ is E[x|z]."""
    z = jnp.linspace(-3, 3, 13)[:, None]
    for gamma in (-4.0, 0.0, 3.0):
        now = level(gamma, PROCESSES[kind])
        mean = THREE.posterior_mean(z, now.alpha, now.sigma)
        slope = jax.grad(partial(THREE.log_density, alpha=now.alpha, sigma=now.sigma))
        score = jax.vmap(jax.vmap(slope))(z)
        np.testing.assert_allclose((now.alpha * mean - z) / now.sigma**2, score, rtol=1e-8, atol=1e-10)
        if kind == "ve":
            np.testing.assert_allclose((mean - z) / np.exp(gamma), score, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(sde_steps.denoised(THREE.predict, z, now), mean, rtol=1e-8, atol=1e-10)


def sample_mixture(make, kind, num_steps, count=4000):
    """Samples from the prior by a rule (predict, process, elapsed) → Step, on an SDE's own grid."""
    schedule, process = getattr(sde_schedules, kind)(t_min=1e-3), PROCESSES[kind]
    grid = samplers.uniform_grid(num_steps)
    level_of = lambda gamma: noise(gamma, gamma, process)
    steps = samplers.transitions(schedule, grid, level_of)
    rule = make(THREE.predict, process, sde_steps.elapsed_gamma(schedule, jnp.asarray(grid, steps.delta.dtype)))

    @jax.jit
    def run(keys):
        z = samplers.prior_sample(keys, (1,), schedule.gamma_1, process)
        z, _ = samplers.run(rule, z, jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys), steps)
        return sde_steps.denoised(THREE.predict, z, level_of(schedule.gamma_0))

    return np.asarray(run(keys_of(count)))[:, 0]


def distance(samples):
    """Kolmogorov's distance to the mixture; 1.63/√n at the 99 % level of samples that are its own."""
    grid = np.sort(samples)
    cdf = sum(p * norm.cdf(grid, m, s) for p, m, s in zip(*THREE, strict=True))
    return np.max(np.abs(cdf - (np.arange(len(grid)) + 0.5) / len(grid)))


def corrected(predictor, steps, r=0.16):
    size = sde_steps.by_sigma(r)
    return lambda predict, process, elapsed: sde_steps.predictor_corrector(
        predictor(predict, process, elapsed), sde_steps.langevin(predict, size, steps)
    )


PREDICTORS = {
    "ancestral": lambda predict, process, elapsed: samplers.ancestral(predict),
    "reverse_diffusion": lambda predict, process, elapsed: sde_steps.reverse_diffusion(predict),
    "euler_maruyama": sde_steps.euler_maruyama,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [("ve", "ancestral"), ("sub_vp", "ancestral"), ("vp", "reverse_diffusion"), ("sub_vp", "euler_maruyama")],
)
def test_samples_have_the_law_of_the_data(kind, name):
    assert distance(sample_mixture(PREDICTORS[name], kind, 250)) < 1.63 / np.sqrt(4000) + 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sub_vp", "ve"])
def test_langevin_steps_correct_a_coarse_predictor(kind):
    """Ten steps of reverse diffusion miss the law; with 10 Langevin steps at each level they are nearer to it."""
    coarse = PREDICTORS["reverse_diffusion"]
    alone, helped = (distance(sample_mixture(make, kind, 10)) for make in (coarse, corrected(coarse, 10, 0.3)))
    assert alone > 0.03 and helped < 0.6 * alone


def test_annealed_langevin_dynamics_samples_the_mixture():
    """NCSN: levels from σ = 10 to .01, 30 steps at each, nothing between the levels."""
    schedule = sde_schedules.ve(0.01, 10.0)
    level_of = lambda gamma: noise(gamma, gamma, VE)
    stays = sde_steps.visits(samplers.transitions(schedule, samplers.uniform_grid(19), level_of))
    rule = sde_steps.langevin(THREE.predict, sde_steps.by_sigma(0.316), 30)

    @jax.jit
    def run(keys):
        z = samplers.prior_sample(keys, (1,), schedule.gamma_1, VE)
        return samplers.run(rule, z, jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys), stays)[0]

    assert distance(np.asarray(run(keys_of(4000)))[:, 0]) < 1.63 / np.sqrt(4000) + 0.02


def test_flows_of_all_processes_are_one(x64):
    """x̂(z, γ) depends on z/α alone, so DDIM from the same z_1/α_1 ends at the same z_0/α_0."""
    gammas = jnp.linspace(5.0, -6.0, 40)
    u, keys = jnp.linspace(-30, 30, 9)[:, None], keys_of(9)
    ends = []
    for process in PROCESSES.values():
        frm, to = level(gammas[:-1], process), level(gammas[1:], process)
        steps = samplers.Transition(frm, to, frm.gamma - to.gamma, jnp.arange(39), jnp.zeros(39))
        z, _ = samplers.run(samplers.ddim(THREE.predict), frm.alpha[0] * u, keys, steps)
        ends.append(z / to.alpha[-1])
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-10)
    np.testing.assert_allclose(ends[2], ends[0], rtol=1e-10)
    assert np.ptp(ends[0]) > 1


def test_predictor_and_corrector_draw_their_own_noise():
    seen = []

    def record(keys, z, step):
        seen.append(samplers.normal(keys, z))
        return z

    sde_steps.predictor_corrector(record, record)(keys_of(4), jnp.zeros((4, 3)), transition("vp", 1.0, 0.0))
    assert len(np.unique(np.stack(seen))) == 24


# Parity with score_sde at injected noise


def golden_transition(kind, t, num_levels=1000):
    """The step of the original's table at t, from index int(t (N − 1))."""
    index = int(t * (num_levels - 1))
    if kind == "vp":
        return tables.from_betas(tables.linear_betas(num_levels)).at(jnp.asarray(index))
    gamma = 2 * np.log(np.geomspace(0.01, 50.0, num_levels))
    below = gamma[index - 1] if index else -np.inf
    step = transition("ve", gamma[index], below)
    return step._replace(delta=jnp.asarray(gamma[index] - below), floor=jnp.asarray(0.0))


def golden_case(kind, j, rule_of, step, elapsed=None):
    """Our step from the golden's z with its ε̂ = tanh 1.5 u + .2 u, u = z/σ for VE, and its noise in place of ours."""
    goldens = np.load(GOLDENS)
    sigma = step.frm.sigma if kind == "ve" else 1.0
    eps = lambda z: jnp.tanh(1.5 * z / sigma) + 0.2 * z / sigma
    predict = lambda z, now: prediction.split(eps(z), z, now)
    return rule_of(predict, elapsed)(keys_of(3), jnp.asarray(goldens["x"]) * sigma, step)


@pytest.fixture
def injected(monkeypatch):
    """The golden's noise: draw k of a step is noise[k]."""
    noise = jnp.asarray(np.load(GOLDENS)["noise"])
    monkeypatch.setattr(sde_steps, "normal", lambda keys, z: noise[0])
    monkeypatch.setattr(reverse, "normal", lambda keys, z: noise[0])
    monkeypatch.setattr(samplers, "normal", lambda keys, z: noise[0])

    def unrolled(low, high, body, z):
        for k in range(low, high):
            monkeypatch.setattr(sde_steps, "normal", lambda keys, z, k=k: noise[k])
            z = body(jnp.asarray(k), z)
        return z

    monkeypatch.setattr(sde_steps.lax, "fori_loop", unrolled)


@pytest.mark.parametrize("j", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_euler_maruyama_is_the_original_s(kind, j, x64, injected):
    goldens, t_min = np.load(GOLDENS), 1e-9
    t = goldens["times"][j]
    schedule = getattr(sde_schedules, kind)(t_min=t_min)
    s, ds = (t - t_min) / (1 - t_min), 1e-3 / (1 - t_min)
    step = transition(kind, schedule.gamma(jnp.asarray(s)), schedule.gamma(jnp.asarray(s - ds)))
    elapsed = sde_steps.elapsed_gamma(schedule, jnp.array([s, s - ds]))
    ours = golden_case(kind, j, lambda p, e: sde_steps.euler_maruyama(p, PROCESSES[kind], e), step, elapsed)
    wanted = goldens[f"euler_maruyama/{kind}/{j}/new"]
    np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())


RULES = {
    "reverse_diffusion": lambda kind: lambda p, e: sde_steps.reverse_diffusion(p),
    # its VP variance is β, its VE variance β̃
    "ancestral": lambda kind: lambda p, e: reverse.ancestral(p, "beta") if kind == "vp" else samplers.ancestral(p),
    "langevin": lambda kind: lambda p, e: sde_steps.langevin(p, sde_steps.by_norms(0.16), 2),
    "annealed": lambda kind: lambda p, e: sde_steps.langevin(p, sde_steps.by_sigma(0.176), 2),
}


@pytest.mark.parametrize("j", range(4))
@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize("name", sorted(RULES))
def test_steps_on_a_table_are_the_original_s(name, kind, j, x64, injected):
    """At t = 0 the step ends at the data; ours is then without noise, where the original's VP step has some."""
    goldens = np.load(GOLDENS)
    if name == "annealed" and kind == "vp":
        return  # the original has it for VE alone
    step = golden_transition(kind, goldens["times"][j])
    ours = golden_case(kind, j, RULES[name](kind), step)
    last = name == "ancestral" and goldens["times"][j] == 0
    wanted = goldens[f"{name}/{kind}/{j}/{'mean' if last else 'new'}"]
    np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
