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
MASK = jnp.asarray(np.random.default_rng(0).random((4, 3, 2, 1)) < 0.5)


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def image():
    return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, SHAPE), jnp.float32)


def continuous(num_steps, gamma_0=-8.0, gamma_1=6.0):
    schedule = schedules.linear(gamma_0, gamma_1)
    return samplers.transitions(schedule, samplers.uniform_grid(num_steps), lambda g: noise(g, g))


def run(rule, steps, z, keys):
    """steps: () → the steps, made under jit."""
    return jax.jit(lambda z, keys: samplers.run(rule, z, keys, steps())[0])(z, keys)


def test_what_is_known_is_there_at_the_end_and_the_rest_is_sampled():
    """At the data of a table exactly; at the γ₀ of a schedule as α₀ x + σ₀ ε."""
    x, keys, start = image(), keys_of(4), samplers.normal(keys_of(4, 1), image())
    table = lambda: tables.from_betas(tables.cosine_betas(12)).reverse()
    z = run(editing.inpaint(reverse.ancestral(exact_predict(), "beta"), x, MASK), table, start, keys)
    np.testing.assert_array_equal(z[MASK], x[MASK])
    assert np.abs(z - x)[~MASK].min() > 1e-3
    z = run(editing.inpaint(samplers.ancestral(exact_predict()), x, MASK), lambda: continuous(12), start, keys)
    off = (z - x)[MASK] / level(-8.0).sigma
    assert np.abs(off).max() < 4 and 0.3 < np.std(off) < 2


def test_an_empty_mask_changes_nothing_and_noise_is_of_the_image():
    x, keys, steps = image(), keys_of(4), lambda: continuous(5)
    start, rule = samplers.normal(keys_of(4, 1), x), samplers.ancestral(exact_predict())
    none = editing.resampled(editing.inpaint(rule, x, jnp.zeros_like(MASK)), 1)
    np.testing.assert_array_equal(run(none, steps, start, keys), run(rule, steps, start, keys))
    part = lambda s: run(editing.resampled(editing.inpaint(rule, x[s], MASK[s]), 2), steps, start[s], keys[s])
    np.testing.assert_allclose(part(slice(1, 3)), part(slice(None))[1:3], rtol=1e-6)


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
    patch = pytest.MonkeyPatch()
    for module in (editing, samplers):
        patch.setattr(module, "normal", silent)
    x, known, keys = jnp.array([[KNOWN, 0.0]]), jnp.array([[True, False]]), keys_of(1)

    def ends():
        steps, zero = continuous(100), jnp.zeros((1, 2))
        inpaint = editing.inpaint(samplers.ancestral(correlated), x, known)
        guided = guidance.classifier(correlated, guidance.gradient_of(log_known), classifier_scale=1.0)
        rules = {f"repeats {n}": editing.resampled(inpaint, n) for n in (1, 4, 16)}
        rules["guided"] = samplers.ancestral(guided)
        return {name: samplers.run(rule, zero, keys, steps)[0][0, 1] for name, rule in rules.items()}

    with jax.enable_x64(True):
        found = {name: float(value) for name, value in jax.jit(ends)().items()}
    patch.undo()
    return found


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
    x, keys, steps = jnp.asarray(image(), float), keys_of(4), continuous(400)
    eps = None
    for strength, count in ((0.25, 100), (0.5, 200), (1.0, 400)):
        z, rest = editing.noised_start(x, keys, steps, strength)
        assert len(rest.number) == count and rest.number[-1] == 399
        now = level(float(rest.frm.gamma[0]))
        np.testing.assert_allclose(now.gamma, -8 + 14 * strength)
        drawn = (z - now.alpha * x) / now.sigma
        eps = drawn if eps is None else eps
        np.testing.assert_allclose(drawn, eps, atol=1e-10)  # keyed: one noise for all strengths
        end = run(samplers.heun(exact_predict(), VP), lambda rest=rest: rest, z, keys)
        factor = np.sqrt(marginal(level(-8.0)) / marginal(now))
        np.testing.assert_allclose(end, factor * z, rtol=1e-3)
    np.testing.assert_allclose(np.std(eps), 1, atol=0.4)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda rule, x: editing.inpaint(rule, x, MASK.astype(jnp.float32)), "mask of bool"),
        (lambda rule, x: editing.inpaint(rule, x, MASK[..., 0]), "mask of bool"),
        (lambda rule, x: editing.inpaint(rule, x[:1], MASK), "mask of bool"),
        (lambda rule, x: editing.inpaint(rule, x, MASK)(None, x[:2], None), "z has"),
        (lambda rule, x: editing.resampled(rule, 0), "once or more"),
        (lambda rule, x: editing.noised_start(x, keys_of(4), continuous(10), 0.01), "run 0 of 10"),
        (lambda rule, x: editing.noised_start(x, keys_of(4), continuous(10), 1.2), "must lie in"),
    ],
)
def test_what_does_not_fit_is_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call(samplers.ancestral(exact_predict()), image())
