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
    likelihood,
    prediction,
    reverse,
    samplers,
    schedules,
    sde_steps,
    tables,
    thresholds,
)
from vdm_jax.diffusion.process import SUB_VP, VE, VP, noise

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
    """N(μ, Σ) e^{s a·z_s} normalised, by quadrature: N(μ + s Σ a, Σ). The score shift has one σ² for all channels."""
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


def mixed(z, now, cond):
    """A network of no meaning that sees its whole condition and its level, with a variance head."""
    told = jnp.stack([cond["label"], now.gamma, jnp.mean(cond["text"], axis=1)], axis=1)
    out = jnp.tanh(z * told[:, :1] + told[:, 1:2] + z[:, ::-1] * told[:, 2:])
    return jnp.concatenate([out, out**2 - told[:, :1]], axis=1)


def test_one_call_on_pairs_equals_two_calls_and_keeps_the_conditional_head():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    cond = {"label": draw(5), "text": draw(5, 4)}
    null = {"label": jnp.zeros(5), "text": jnp.zeros((5, 4))}
    z, w, calls = draw(5, 3), jnp.array([0.0, 0.5, 1.0, 2.0, -1.0]), []

    def counted(z, now, cond):
        calls.append(z.shape)
        return mixed(z, now, cond)

    @jax.jit
    def both(gamma):
        guided = guidance.classifier_free(counted, prediction.split, cond, null, guidance_weight=w)
        each = [samplers.predictor(mixed, prediction.split, c) for c in (cond, null)]
        return [p(z, level(gamma)) for p in (guided, *each)]

    for gamma in (jnp.float32(0.3), draw(5)):
        found, one, other = both(gamma)
        by_hand = (1 + w[:, None]) * one.eps - w[:, None] * other.eps
        np.testing.assert_allclose(found.eps, by_hand, rtol=2e-5, atol=2e-6)
        np.testing.assert_array_equal(found.variance_head, one.variance_head)
    assert calls == [(10, 3)] * 2


def test_the_halves_of_an_image_stay_on_its_device():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    halves = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    put = lambda *shape: jax.device_put(jnp.ones(shape), halves)

    def guided(z, cond):
        null = jax.tree.map(jnp.zeros_like, cond)
        return guidance.classifier_free(mixed, prediction.split, cond, null, guidance_weight=2.0)(z, level(0.3)).eps

    text = jax.jit(guided).lower(put(4, 3), {"label": put(4), "text": put(4, 4)}).compile().as_text()
    assert "num_partitions=2" in text
    assert not any(word in text for word in ("all-to-all", "all-gather", "collective-permute", "all-reduce"))


STEPS = {
    "ddim": (VP, lambda p: samplers.ddim(p, 0.3)),
    "heun": (VE, lambda p: samplers.heun(p, VE)),
    "table": (None, lambda p: reverse.ancestral(p, 0.3)),
    "ancestral": (VP, lambda p: samplers.ancestral(p)),
    "euler_maruyama": (SUB_VP, lambda p: sde_steps.euler_maruyama(p, SUB_VP)),
    "predictor_corrector": (
        VP,
        lambda p: sde_steps.predictor_corrector(
            sde_steps.reverse_diffusion(p), sde_steps.langevin(p, sde_steps.by_sigma(0.1), 1)
        ),
    ),
    "table, ddim": (None, lambda p: samplers.ddim(p)),
}
QUICK = ("ddim", "heun", "table")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=() if name in QUICK else pytest.mark.slow)
        for name, kind in zip(STEPS, ("x", "v", "eps", "eps", "score", "x", "v"), strict=True)
    ],
)
def test_guidance_works_inside_every_sampler_with_a_weight_for_each_image(name, kind, x64):
    """Classifier-free with w [B], classifier guidance, and an image by itself with its own w end at the same place."""
    process, rule = STEPS[name]
    if process is None:
        steps = tables.from_betas(tables.cosine_betas(8)).reverse()
    else:
        schedule = schedules.cosine(-6.0, 4.0)
        steps = samplers.transitions(schedule, samplers.uniform_grid(8), lambda g: noise(g, g, process))
    labels, w = np.array([0, 1, 2, 2]), jnp.array([0.0, 1.0, 3.0, 0.3])
    keys, z = jax.random.split(jax.random.key(0), 4), jnp.array([[-0.3], [0.5], [1.2], [0.1]])

    @jax.jit
    def ends():
        conditional, _, gradient = predicts(THREE, kind, labels)
        by = lambda predict, part: samplers.run(rule(predict), z[part], keys[part], steps)[0]
        return (
            by(free(THREE, w, kind, labels), slice(None)),
            by(guidance.classifier(conditional, gradient, classifier_scale=w), slice(None)),
            by(free(THREE, 3.0, kind, labels[2:3]), slice(2, 3)),
        )

    one, other, alone = ends()
    np.testing.assert_allclose(one, other, rtol=1e-8)
    np.testing.assert_allclose(alone, one[2:3], rtol=1e-10)
    assert np.abs(one[2] - one[3]) > 0.01


@pytest.mark.slow
def test_the_solver_of_the_flow_takes_a_weight_for_each_image_and_both_guidances(x64):
    """`likelihood.decode`, whose examples are solved one by one, ends where Heun's method with small steps ends."""
    labels, w, z = jnp.array([0, 2, 2]), jnp.array([2.0, 0.5, 3.0]), jnp.array([[-0.3], [0.5], [1.2]])
    schedule = schedules.linear(-6.0, 4.0)

    def by_hand(z, now, cond):
        return free(THREE, cond["w"], labels=cond["label"])(z, now)

    def by_classifier(z, now, cond):
        conditional, _, gradient = predicts(THREE, labels=cond["label"])
        return guidance.classifier(conditional, gradient, classifier_scale=cond["w"])(z, now)

    cond = {"label": labels, "w": w}
    steps = samplers.transitions(schedule, samplers.uniform_grid(800), level)
    heun = samplers.heun(lambda z, now: by_hand(z, now, cond))
    expected = jax.jit(lambda: samplers.run(heun, z, jax.random.split(jax.random.key(0), 3), steps)[0])()
    for predict in (by_hand, by_classifier):
        ode = likelihood.ODE(predict, level, schedule.gamma_0, schedule.gamma_1, VP, tolerance=1e-8)
        found = jax.jit(lambda: likelihood.decode(ode, z, cond))()  # noqa: B023
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_an_interval_guides_inside_and_costs_one_half_outside():
    labels, rows = jnp.array([0, 2]), []

    def denoise(z, now, cond):
        jax.debug.callback(lambda g: rows.append((len(z), float(g))), now.gamma[0])
        return THREE.denoise()(z, now, cond)

    @jax.jit
    def found(gamma):
        w = jnp.array([2.0, 1.0])
        inside = guidance.interval(w, -1.0, 2.0)
        conditional, _, gradient = predicts(THREE, labels=labels)
        z, now = jnp.array([[0.3], [-0.2]]), level(gamma)
        by = guidance.classifier_free(denoise, prediction.split, labels, jnp.full(2, 3), guidance_weight=inside)
        shift = guidance.classifier(conditional, gradient, classifier_scale=inside)
        return [p(z, now).eps for p in (by, shift, conditional, free(THREE, w, labels=labels))]

    for gamma in (-1.5, -1.0, 0.0, 2.0, 2.5):
        rows.clear()
        by, shift, conditional, always = found(gamma)
        inside = -1 <= gamma <= 2
        np.testing.assert_allclose(by, always if inside else conditional, rtol=1e-5)
        np.testing.assert_allclose(shift, always if inside else conditional, rtol=1e-4)
        jax.effects_barrier()
        assert rows == [(4 if inside else 2, gamma)]
    assert np.abs(always - conditional).min() > 0.01


def test_thresholds_follow_their_formulas_and_act_after_guidance():
    rng = np.random.default_rng(0)
    z, now = jnp.asarray(rng.normal(size=(3, 4, 4, 2)), jnp.float32), level(jnp.array([-1.0, 0.0, 1.0]))
    x = jnp.asarray(rng.normal(size=z.shape) * np.array([0.1, 2, 5]).reshape(3, 1, 1, 1), jnp.float32)
    labels = jnp.array([2])

    @jax.jit
    def found():
        predict = lambda z, now: prediction.split(x, z, now, "x")
        by = thresholds.static(predict, 0.8)(z, now), thresholds.dynamic(predict, 90.0)(z, now)
        clip = lambda raw, z, now: prediction.clipped(prediction.split(raw, z, now), z, now, 0.8)
        place, one = jnp.array([[1.0]]), level(0.0)
        before = guidance.classifier_free(THREE.denoise(), clip, labels, labels + 1, guidance_weight=3.0)
        after = thresholds.static(free(THREE, 3.0, labels=labels), 0.8)
        return *by, prediction.clipped(predict(z, now), z, now, 0.8), before(place, one).x, after(place, one).x

    static, dynamic, clipped, before, after = found()
    np.testing.assert_array_equal(static.x, np.clip(x, -0.8, 0.8))
    np.testing.assert_allclose(static.eps, clipped.eps, rtol=1e-6)
    for k in range(3):
        a = max(np.quantile(np.abs(x[k]), 0.9), 1.0)
        np.testing.assert_allclose(dynamic.x[k], np.clip(x[k], -a, a) / a, rtol=1e-5)
    np.testing.assert_array_equal(dynamic.x[0], x[0])  # within the limit already
    alpha, sigma = (np.asarray(a).reshape(3, 1, 1, 1) for a in (now.alpha, now.sigma))
    for by in (static, dynamic):
        np.testing.assert_allclose(alpha * by.x + sigma * by.eps, z, rtol=1e-4, atol=1e-5)
        assert np.abs(by.x).max() <= 1
    # clipped halves extrapolate beyond the limit; a clipped whole does not
    assert before > 1.0
    np.testing.assert_allclose(after, 0.8)


def test_variance_between_is_that_of_the_paper_in_its_own_letters(x64):
    """(σ̃²_{λ′|λ})^{1−v} (σ²_{λ|λ′})^v, σ²_{λ|λ′} = (1 − e^{λ−λ′}) σ_λ², σ̃²_{λ′|λ} = (1 − e^{λ−λ′}) σ_{λ′}², λ < λ′."""
    z = jnp.zeros((10, 1))

    @jax.jit
    def found(v):
        steps = samplers.transitions(schedules.cosine(-20.0, 20.0), samplers.uniform_grid(10), level)
        by = [reverse.moments(z, prediction.Prediction(z, z), steps, w)[1] for w in (v, "posterior", "beta")]
        return steps, jnp.exp(jnp.stack(by)[..., 0])

    steps, (_, posterior, beta) = found(0.0)
    sigma2 = lambda lam: 1 / (1 + np.exp(np.asarray(lam)))
    lam, above = -np.asarray(steps.frm.gamma), -np.asarray(steps.to.gamma)
    shrink = 1 - np.exp(lam - above)
    for v in (0.0, 0.2, 0.3, 1.0):
        expected = (shrink * sigma2(above)) ** (1 - v) * (shrink * sigma2(lam)) ** v
        np.testing.assert_allclose(found(v)[1][0], expected, rtol=1e-8)
    np.testing.assert_array_equal(found(0.0)[1][0], posterior)
    np.testing.assert_array_equal(found(1.0)[1][0], beta)


def test_the_truncated_cosine_is_the_papers(x64):
    """λ = −2 log tan(a u + b), b = arctan e^{−λ_max/2}, a = arctan e^{−λ_min/2} − b, λ ∈ [−20, 20], is −γ(u)."""
    u = np.linspace(0, 1, 101)
    b = np.arctan(np.exp(-20 / 2))
    a = np.arctan(np.exp(20 / 2)) - b
    np.testing.assert_allclose(
        -jax.jit(schedules.cosine(-20.0, 20.0).gamma)(jnp.asarray(u)), -2 * np.log(np.tan(a * u + b)), atol=1e-8
    )


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda z: free(THREE, jnp.ones(3), labels=[0, 1])(z, level(0.0)), "weight"),
        (lambda z: free(THREE, 1.0, labels=[0, 1, 2])(z, level(0.0)), "condition each"),
        (
            lambda z: guidance.classifier_free(
                THREE.denoise(), prediction.split, jnp.zeros(2), jnp.zeros(()), guidance_weight=1.0
            ),
            "same shapes",
        ),
        (lambda z: guidance.class_gradient(THREE.logits, jnp.array([1]))(z, level(0.0)), "condition each"),
        (
            lambda z: guidance.classifier(THREE.predict, lambda z, now: z[:, 0], classifier_scale=1.0)(z, level(0.0)),
            "gradient",
        ),
        (lambda z: guidance.interval(1.0, 2.0, -2.0), "gamma_min < gamma_max"),
        (lambda z: thresholds.static(THREE.predict, 0.0), "limit > 0"),
        (lambda z: thresholds.dynamic(THREE.predict, 0.0), "percentile"),
        (lambda z: thresholds.dynamic(THREE.predict, 101.0), "percentile"),
    ],
)
def test_what_does_not_fit_is_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call(jnp.zeros((2, 1)))
