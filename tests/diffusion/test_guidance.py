"""Guidance on mixtures of Gaussians whose scores and classifiers are exact: identities, and numbers of the mistakes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from tests.diffusion.closed_forms import level
from tests.diffusion.mixtures import EXAMPLE, THREE, Mixture
from vdm_jax.diffusion import (
    guidance,
    prediction,
    reverse,
    samplers,
    sde_steps,
    tables,
)
from vdm_jax.diffusion.process import SUB_VP, VE, VP

PROCESSES = {"vp": (VP, prediction.KINDS), "ve": (VE, ("v",)), "sub_vp": (SUB_VP, ("score",))}
# every class at seven z and three weights
LABELS, PLACES, WEIGHTS = (a.reshape(-1) for a in np.meshgrid(range(3), np.linspace(-2, 2, 7), (0.0, 0.5, 3.0)))
NULL = np.full_like(LABELS, 3)


def split_of(kind):
    return partial(prediction.split, kind=kind)


def predicts(mixture, kind="eps", labels=LABELS):
    """(conditional, unconditional, gradient of the exact classifier)."""
    denoise, split, labels = mixture.denoise(kind), split_of(kind), jnp.asarray(labels)
    of = lambda c: samplers.predictor(denoise, split, c)
    return of(labels), of(jnp.full_like(labels, 3)), guidance.class_gradient(mixture.logits, labels)


def free(mixture, w, kind="eps", labels=LABELS):
    labels = jnp.asarray(labels)
    denoise, split = mixture.denoise(kind), split_of(kind)
    return guidance.classifier_free(denoise, split, labels, jnp.full_like(labels, 3), guidance_weight=w)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_guided_score_is_that_of_the_tilted_density_at_every_level(name, x64):
    """−ε̂/σ = ∇[log p(z|c) + w log p(c|z)] = ∇[log p(z) + (1 + w) log p(c|z)], of every target, by either guidance."""
    z, labels, w = jnp.asarray(PLACES)[:, None], jnp.asarray(LABELS), jnp.asarray(WEIGHTS)
    process, kinds = PROCESSES[name]

    def tilted(z, k, w, now):
        parts, _, _ = EXAMPLE.parts(z, now.alpha, now.sigma)
        own = EXAMPLE.log_class(z, now.alpha, now.sigma)[k]
        return parts[k] + w * own, jax.nn.logsumexp(parts) + (1 + w) * own

    @jax.jit
    def both(gamma):
        now = level(gamma, process)
        exact = [jax.vmap(jax.grad(lambda *a: tilted(*a, now)[i]))(z[:, 0], labels, w) for i in (0, 1)]  # noqa: B023
        guided = []
        for kind in kinds:
            conditional, unconditional, gradient = predicts(EXAMPLE, kind)
            for predict in (
                free(EXAMPLE, w, kind),
                guidance.classifier(conditional, gradient, classifier_scale=w),
                guidance.classifier(unconditional, gradient, classifier_scale=1 + w),
            ):
                found = predict(z, now)
                rest = z - now.alpha * found.x - now.sigma * found.eps
                guided.append((prediction.score_from_eps(found.eps, now)[:, 0], rest))
        return exact, guided

    for gamma in (-4.0, -1.0, 1.0, 4.0):
        (exact, other), guided = both(gamma)
        np.testing.assert_allclose(other, exact, rtol=1e-8, atol=1e-8)
        for score, rest in guided:
            np.testing.assert_allclose(score, exact, rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(rest, 0, atol=1e-11)


def test_names_of_the_scales_meet_in_their_models(x64):
    """w = 0 and g = 1 are the conditional model, to the bit; g = 0 is the unconditional one."""

    @jax.jit
    def guided(w):
        z, now = jnp.asarray(PLACES)[:, None], level(0.5)
        return [p(z, now).eps for p in (free(EXAMPLE, w), *predicts(EXAMPLE)[:2])]

    for w in (0.0, guidance.from_scale(1.0)):
        found, conditional, unconditional = guided(w)
        np.testing.assert_array_equal(found, conditional)
    np.testing.assert_allclose(guided(guidance.from_scale(0.0))[0], unconditional, rtol=1e-12)
    by_hand = unconditional + 3 * (conditional - unconditional)
    np.testing.assert_allclose(guided(guidance.from_scale(3.0))[0], by_hand, rtol=1e-12)


def test_guidance_does_nothing_where_the_class_says_nothing(x64):
    """The coefficients add up to one. The lecture's ε_c − α ε_∅ does not: it leaves (1 − α) ε of an idle class."""
    idle = Mixture((0.2, 0.3, 0.5), (0.4, 0.4, 0.4), (0.3, 0.3, 0.3))
    w = 3.0

    @jax.jit
    def found():
        conditional, unconditional, gradient = predicts(idle)
        shifted = guidance.classifier(conditional, gradient, classifier_scale=w)
        z, now = jnp.asarray(PLACES)[:, None], level(0.0)
        return [p(z, now).eps for p in (unconditional, conditional, free(idle, w), shifted)]

    plain, conditional, *guided = found()
    for eps in guided:
        np.testing.assert_allclose(eps, plain, rtol=1e-12)
    np.testing.assert_allclose(conditional - w * plain, (1 - w) * plain, rtol=1e-12)


@pytest.mark.parametrize("learned", [False, True])
def test_guidance_by_several_conditions_is_by_hand_and_of_one_the_usual(learned, x64):
    """ε̂_c + Σ w_i (ε̂_c − ε̂_i) of a network of two labels; a learned variance is that of ε̂_c."""
    z, first, second = PLACES[:, None], LABELS, (LABELS + 1) % 3
    w, v = WEIGHTS, 1 + WEIGHTS / 2
    now = level(0.5)

    def raw(xp, z, a, b):
        eps = xp.sin(z * (1 + a)[:, None]) + (a * b)[:, None] - (b**2)[:, None]
        return xp.concatenate([eps, eps**3], axis=1) if learned else eps

    denoise = lambda z, now, cond: raw(jnp, z, cond["a"].astype(z.dtype), cond["b"].astype(z.dtype))
    cond = {"a": jnp.asarray(first), "b": jnp.asarray(second)}
    null = {name: {**cond, name: jnp.asarray(NULL)} for name in cond}

    @jax.jit
    def found():
        of = lambda nulls: guidance.classifier_free_of_several(denoise, prediction.split, cond, nulls)(
            jnp.asarray(z), now
        )
        usual = guidance.classifier_free(denoise, prediction.split, cond, null["a"], guidance_weight=w)
        both = of([(null["a"], jnp.asarray(w)), (null["b"], lambda level: jnp.asarray(v))])
        return both, of([(null["a"], jnp.asarray(w))]), usual(jnp.asarray(z), now), of([])

    both, one, usual, plain = found()
    full, no_a, no_b = (raw(np, z, a, b) for a, b in ((first, second), (NULL, second), (first, NULL)))
    expected = full[:, :1] + w[:, None] * (full - no_a)[:, :1] + v[:, None] * (full - no_b)[:, :1]
    np.testing.assert_allclose(both.eps, expected, rtol=1e-12)
    np.testing.assert_allclose(now.alpha * both.x + now.sigma * both.eps, z, rtol=1e-10, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), one, usual)
    np.testing.assert_allclose(plain.eps, full[:, :1], rtol=1e-12)
    if learned:
        np.testing.assert_allclose(both[2], full[:, 1:], rtol=1e-12)


def one_step():
    """The step of the errata's example: ᾱ = .5 before it, σ² = .02; z = .9, the third class."""
    return tables.from_betas(np.array([0.5, 0.02])).at(jnp.array([1])), jnp.array([[0.9]])


def test_one_guided_step_has_the_exact_conditional_mean_and_the_lectures_have_not(x64):

    @jax.jit
    def found():
        step, z = one_step()
        conditional, unconditional, gradient = predicts(EXAMPLE, labels=[2])
        shifted = guidance.classifier(unconditional, gradient, classifier_scale=1.0)
        means = [reverse.gaussian(p, "beta")(z, step)[0] for p in (conditional, unconditional, shifted)]
        score = prediction.score_from_eps(conditional(z, step.frm).eps, step.frm)
        return jnp.stack([*means, score, gradient(z, step.frm)]).reshape(-1)

    conditional, unconditional, shifted, score, pull = found()
    before, after = 0.5 * 0.1**2 + 0.5, 0.98 * (0.5 * 0.1**2 + 0.5) + 0.02  # variances of the class in z
    exact = np.sqrt(0.5) * 1.5 + np.sqrt(0.98) * before / after * (0.9 - np.sqrt(0.49) * 1.5)
    np.testing.assert_allclose(exact, 0.915023, atol=5e-7)
    np.testing.assert_allclose([conditional, shifted], exact, rtol=1e-9)
    beta, root = 0.02, np.sqrt(0.98)
    np.testing.assert_allclose(shifted, unconditional + beta / root * pull, rtol=1e-9)
    # σ where σ² belongs, and no σ at all
    np.testing.assert_allclose((0.9 + np.sqrt(beta) * score) / root, 0.950754, atol=5e-7)
    np.testing.assert_allclose(unconditional + pull / root, 1.969170, atol=5e-7)


def test_mean_shift_by_the_true_variance_is_exact_to_first_order(x64):
    """.914756 for .915023, with the variance that a learned one tends to: σ²/(1 − σ²) (1 + σ² ∂² log p(z))."""

    @jax.jit
    def found():
        step, z = one_step()
        alpha, sigma = step.frm.alpha[0], step.frm.sigma[0]
        curvature = jax.grad(lambda z: EXAMPLE.score(z, alpha, sigma))(0.9)
        variance = 0.02 / 0.98 * (1 + 0.02 * curvature)
        small, large = reverse.log_variances(step)
        head = 2 * (jnp.log(variance) - small) / (large - small) - 1
        exact = EXAMPLE.denoise()
        learned = lambda z, now, labels: jnp.concatenate([exact(z, now, labels), head[:, None]], axis=-1)
        model = reverse.gaussian(samplers.predictor(learned, prediction.split, jnp.array([3])), "learned")
        gradient = guidance.class_gradient(EXAMPLE.logits, jnp.array([2]))
        return variance, *guidance.mean_shift(model, gradient, classifier_scale=1.0)(z, step)

    variance, mean, log_variance = found()
    np.testing.assert_allclose(mean, 0.914756, atol=5e-7)
    np.testing.assert_allclose(jnp.exp(log_variance), variance, rtol=1e-9)


def test_mean_shift_is_exact_for_a_log_linear_classifier_and_weighs_every_channel(x64):
    """N(μ, Σ) e^{s a·z_s} normalized, by quadrature: N(μ + s Σ a, Σ). The score shift has one σ² for all channels."""
    pull, scale = np.array([[0.7, -1.3]]), 2.5

    @jax.jit
    def found():
        step = tables.from_betas(np.array([0.5, 0.3])).at(jnp.array([1]))
        z, raw = jnp.array([[0.3, -0.4]]), jnp.array([[0.2, -0.1, -1.0, 0.5]])
        predict = lambda z, now: prediction.split(raw, z, now)
        gradient = guidance.gradient_of(lambda z, now: jnp.sum(pull * z, axis=1))
        model, score_shift = (
            reverse.gaussian(p, "learned")
            for p in (predict, guidance.classifier(predict, gradient, classifier_scale=scale))
        )
        shifted = guidance.mean_shift(model, gradient, classifier_scale=scale)
        keys = jax.random.split(jax.random.key(0), 1)
        draws = [reverse.drawn(r)(keys, z, step) for r in (model, shifted)]
        return shifted(z, step), model(z, step), score_shift(z, step)[0], draws[1] - draws[0]

    (mean, log_variance), plain, scalar, moved = jax.tree.map(np.asarray, found())
    grid = np.linspace(-6, 6, 20_001)
    for channel in range(2):
        square = (grid - plain[0][0, channel]) ** 2 / np.exp(plain[1][0, channel])
        weight = np.exp(-0.5 * square + scale * pull[0, channel] * grid)
        expected = (weight @ grid) / weight.sum()
        np.testing.assert_allclose(mean[0, channel], expected, rtol=1e-9)
        spread = weight @ (grid - expected) ** 2 / weight.sum()
        np.testing.assert_allclose(np.exp(log_variance[0, channel]), spread, rtol=1e-9)
    np.testing.assert_allclose(scalar - plain[0], scale * 0.3 / np.sqrt(0.7) * pull, rtol=1e-9)
    assert np.abs(scalar - mean).min() > 0.02
    np.testing.assert_allclose(moved, scale * np.exp(plain[1]) * pull, rtol=1e-9)


@pytest.mark.slow
def test_guided_samples_do_not_follow_the_tilted_density(x64):
    """1000 log-spaced Euler steps in VE's variance from 100 to 10⁻⁴, right-hand class, w = 3: the density has mean
    1.124 and deviation .280, the flow ends at 1.608 ± .178, the SDE at 1.307 ± .276; w = 0 agrees for all. All start
    from the class's own density at t = 100."""
    grid = np.linspace(-3, 5, 80_001)
    each = THREE.log_class(jnp.asarray(grid), 1.0, 1e-9)[:, 2]
    log = np.asarray(THREE.component(2).log_density(jnp.asarray(grid), 1.0, 1e-9) + 3 * each)
    weight = np.exp(log - log.max())
    mean = weight @ grid / weight.sum()
    deviation = np.sqrt(weight @ (grid - mean) ** 2 / weight.sum())
    np.testing.assert_allclose([mean, deviation], [1.124, 0.280], atol=5e-4)

    t = np.geomspace(100, 1e-4, 1001)
    elapsed = jnp.asarray((t[:-1] - t[1:]) / t[:-1])  # g = 1 in the time t
    frm, to = level(jnp.log(t[:-1]), VE), level(jnp.log(t[1:]), VE)
    steps = samplers.Transition(frm, to, elapsed, jnp.arange(1000), jnp.zeros(1000))

    def ends(rule, count):
        """Of so many with w = 3 and with w = 0, from the quantiles."""
        place = norm.ppf((np.arange(count) + 0.5) / count)
        start = jnp.asarray(1 + np.sqrt(100 + 0.35**2) * np.concatenate([place, place])[:, None])
        w, labels = jnp.repeat(jnp.array([3.0, 0.0]), count), np.full(2 * count, 2)
        keys = jax.random.split(jax.random.key(0), 2 * count)
        z = jax.jit(lambda: samplers.run(rule(free(THREE, w, labels=labels)), start, keys, steps)[0])()
        return [(np.mean(half), np.std(half)) for half in (z[:count], z[count:])]

    flow = ends(lambda p: samplers.euler(p, VE), 300)
    np.testing.assert_allclose(flow, [(1.608, 0.178), (1.0, 0.35)], atol=0.005)
    sde = ends(lambda p: sde_steps.euler_maruyama(p, VE, elapsed), 500)
    np.testing.assert_allclose(sde, [(1.307, 0.276), (1.0, 0.35)], atol=4 * 0.35 / np.sqrt(500))
