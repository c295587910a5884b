"""Steps that wrap steps: what inpainting keeps, what it does not sample, and what a noised start leaves of an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from tests.diffusion.closed_forms import exact_predict, level, marginal
from vdm_jax.diffusion import editing, guidance, prediction, reverse, samplers, schedules, tables
from vdm_jax.diffusion.process import VP, noise

SHAPE = (4, 3, 2, 1)
MASK = np.random.default_rng(0).random(SHAPE) < 0.5


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def image():
    return np.random.default_rng(1).uniform(-1, 1, SHAPE).astype(np.float32)


def continuous(num_steps, gamma_0=-8.0, gamma_1=6.0):
    schedule = schedules.linear(gamma_0, gamma_1)
    return samplers.transitions(schedule, samplers.uniform_grid(num_steps), lambda g: noise(g, g))


def run(rule, steps, z, keys):
    """steps: () → the steps, made under jit."""
    return np.asarray(jax.jit(lambda z, keys: samplers.run(rule, z, keys, steps())[0])(z, keys))


def test_what_is_known_is_there_at_the_end_and_the_rest_is_sampled():
    """At the data of a table exactly; at the γ₀ of a schedule as α₀ x + σ₀ ε."""
    x, keys, start = image(), keys_of(4), np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)
    table = lambda: tables.from_betas(tables.cosine_betas(12)).reverse()
    z = run(editing.inpaint(reverse.ancestral(exact_predict(), "beta"), x, MASK), table, start, keys)
    np.testing.assert_array_equal(z[MASK], x[MASK])
    assert np.abs(z - x)[~MASK].min() > 1e-3
    z = run(editing.inpaint(samplers.ancestral(exact_predict()), x, MASK), lambda: continuous(12), start, keys)
    off = (z - x)[MASK] / level(-8.0).sigma
    assert np.abs(off).max() < 4 and 0.3 < np.std(off) < 2


def test_an_empty_mask_changes_nothing_and_noise_is_of_the_image():
    x, keys, steps = image(), keys_of(4), jax.jit(lambda: continuous(5))()
    start, rule = jnp.asarray(x[::-1]), samplers.ancestral(exact_predict())
    none = editing.resampled(editing.inpaint(rule, x, jnp.zeros_like(MASK)), 1)
    twice = lambda s: editing.resampled(editing.inpaint(rule, x[s], MASK[s]), 2)

    @jax.jit
    def found():
        ends = lambda rule, s: samplers.run(rule, start[s], keys[s], steps)[0]
        whole, part = slice(None), slice(1, 3)
        return ends(none, whole), ends(rule, whole), ends(twice(whole), whole), ends(twice(part), part)

    empty, plain, whole, part = found()
    np.testing.assert_array_equal(empty, plain)
    np.testing.assert_allclose(part, whole[1:3], rtol=1e-6)


RHO, KNOWN = 0.8, 1.5


def correlated(z, now):
    """The exact denoiser of x ~ N(0, [[1, ρ], [ρ, 1]]); z: [B, 2]. Along (1, ±1) it has one dimension each."""
    total = jnp.stack([1 + jnp.square(now.alpha) * RHO, 1 - jnp.square(now.alpha) * RHO])
    turn = jnp.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2)
    return prediction.split(now.sigma * ((z @ turn) / total[None]) @ turn, z, now)


def log_known(z, now):
    """log p(x_1 = KNOWN|z), [B], but for what z does not change: x_1 ~ N(k·z, 1 − k·c), k = Cov(z)⁻¹ c, with
    c = Cov(z, x_1) = α (1, ρ) and Cov(z) = [[1, α²ρ], [α²ρ, 1]]."""
    alpha, off = now.alpha, jnp.square(now.alpha) * RHO
    gain = jnp.stack([alpha * (1 - off * RHO), alpha * (RHO - off)], axis=1) / (1 - jnp.square(off))[:, None]
    variance = 1 - alpha * (gain[:, 0] + gain[:, 1] * RHO)
    return -0.5 * jnp.square(KNOWN - jnp.sum(gain * z, axis=1)) / variance


@pytest.fixture(scope="module")
def means():
    """E[x_2|x_1 = KNOWN] of the samplers: everything is linear, so noise that is 0 gives the mean."""
    silent = lambda keys, z: jnp.zeros_like(z)
    keys = keys_of(1)

    def ends():
        steps, zero = continuous(100), jnp.zeros((1, 2))
        x, known = jnp.array([[KNOWN, 0.0]]), jnp.array([[True, False]])
        inpaint = editing.inpaint(samplers.ancestral(correlated), x, known)
        guided = guidance.classifier(correlated, guidance.gradient_of(log_known), classifier_scale=1.0)
        rules = {f"repeats {n}": editing.resampled(inpaint, n) for n in (1, 4, 16)}
        rules["guided"] = samplers.ancestral(guided)
        return {name: samplers.run(rule, zero, keys, steps)[0][0, 1] for name, rule in rules.items()}

    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        for module in (editing, samplers):
            patch.setattr(module, "normal", silent)
        return {name: float(value) for name, value in jax.jit(ends)().items()}


def test_replacement_does_not_sample_the_conditional_and_resampling_tends_to_it(means):
    """Correlated Gaussian, E[x_2|x_1] = ρ x_1. Under replacement the noise of the known averages out and the mean
    follows dm/dγ = −½σ² m + σ² [Cov(z)⁻¹ (α x_1, m)]_2: .749 of 1.2 however many steps."""

    def slope(gamma, m):
        alpha2 = 1 / (1 + np.exp(gamma))
        off = alpha2 * RHO
        pull = (m - off * np.sqrt(alpha2) * KNOWN) / (1 - off**2)
        return (1 - alpha2) * (pull - 0.5 * m)

    limit = solve_ivp(slope, (6.0, -8.0), [0.0], rtol=1e-10, atol=1e-12).y[0, -1]
    exact = RHO * KNOWN
    np.testing.assert_allclose(means["repeats 1"], limit, rtol=0.03)
    assert limit < 0.65 * exact
    off = [exact - means[f"repeats {n}"] for n in (1, 4, 16)]
    assert off[0] > 3 * off[1] > 9 * off[2] > 0


def test_guidance_by_the_likelihood_of_the_known_is_exact(means):
    """log p(known|z) as the classifier: the conditional itself, up to what γ₀ leaves open."""
    np.testing.assert_allclose(means["guided"], RHO * KNOWN, rtol=2e-3)


def test_a_noised_start_leaves_what_the_flow_carries_from_its_level(x64):
    """z_t = α_t x + σ_t ε, and the flow of Gaussian data multiplies by √(Var z_0/Var z_t); all of it at strength 1."""
    x, keys = jnp.asarray(image(), float), keys_of(4)

    @jax.jit
    def found():
        starts = [editing.noised_start(x, keys, continuous(400), s) for s in (0.25, 0.5, 1.0)]
        end, _ = samplers.run(samplers.heun(exact_predict(), VP), starts[1][0], keys, starts[1][1])
        return starts, end, [level(rest.frm.gamma[0]) for _, rest in starts], level(-8.0)

    starts, end, levels, last = found()
    drawn = [(z - now.alpha * x) / now.sigma for (z, _), now in zip(starts, levels, strict=True)]
    for eps in drawn[1:]:
        np.testing.assert_allclose(eps, drawn[0], atol=1e-10)  # keyed: one noise for all strengths
    np.testing.assert_allclose(np.std(drawn[0]), 1, atol=0.4)
    np.testing.assert_allclose([now.gamma for now in levels], [-4.5, -1.0, 6.0])
    assert [(len(rest.number), int(rest.number[-1])) for _, rest in starts] == [(100, 399), (200, 399), (400, 399)]
    factor = np.sqrt(marginal(last) / marginal(levels[1]))
    np.testing.assert_allclose(end, factor * starts[1][0], rtol=1e-3)


TEN = samplers.Transition(*[np.zeros(10)] * 5)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda rule, x: editing.inpaint(rule, x, MASK.astype(jnp.float32)), "bool mask"),
        (lambda rule, x: editing.inpaint(rule, x, MASK[..., 0]), "bool mask"),
        (lambda rule, x: editing.inpaint(rule, x[:1], MASK), "bool mask"),
        (lambda rule, x: editing.inpaint(rule, x, MASK)(None, x[:2], None), "z has"),
        (lambda rule, x: editing.resampled(rule, 0), "repeats=0 must be at least 1"),
        (lambda rule, x: editing.noised_start(x, None, TEN, 0.01), "runs 0 of 10"),
        (lambda rule, x: editing.noised_start(x, None, TEN, 1.2), "must be in"),
    ],
)
def test_what_does_not_fit_is_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call(samplers.ancestral(exact_predict()), image())
