"""How guidance is computed, and that it works in every sampler; thresholds, variances and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.closed_forms import level
from tests.diffusion.mixtures import THREE
from tests.diffusion.test_guidance import free, predicts
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


@pytest.mark.slow
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
        (lambda z: thresholds.static(THREE.predict, 0.0), "limit=0.0 must be greater"),
        (lambda z: thresholds.dynamic(THREE.predict, 0.0), "percentile"),
        (lambda z: thresholds.dynamic(THREE.predict, 101.0), "percentile"),
    ],
)
def test_what_does_not_fit_is_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call(jnp.zeros((2, 1)))
