"""Score SDEs on models that are exact: a silent network beside the exact ε̂ of Gaussian pixels, N(0, s²)."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from tests.diffusion.closed_forms import error, l_infinity, log_normal
from vdm_jax.config import base, check, choose
from vdm_jax.core.method import Context
from vdm_jax.diffusion import samplers
from vdm_jax.diffusion.prediction import Prediction
from vdm_jax.diffusion.process import VE, VP, noise
from vdm_jax.errors import UserError
from vdm_jax.gaussian import networks, sampling
from vdm_jax.keys import example_keys
from vdm_jax.methods import sde

KINDS = ("vp_sde", "sub_vp_sde", "ve_sde")
SHAPE, VARIANCE = (2, 2, 1), 0.3
BETA_MIN, BETA_MAX, SIGMA_MIN, SIGMA_MAX = 0.1, 20.0, 0.01, 50.0


@pytest.fixture
def silent(monkeypatch):
    """The network says 0 (as it does untrained, at more cost), so ε̂ is that of Gaussian pixels."""
    monkeypatch.setattr(networks, "apply", lambda net, params, keys, z, level, cond: jnp.zeros_like(z))


def make(kind, exact=True, **changes):
    """A config of tiny continuous images; changes: 'section.field' with two underscores for the dot."""
    config = choose(base(), {"method": "sde", "schedule.kind": kind})
    config.data.update(shape=SHAPE, vocabulary=0)
    config.model.update(width=8, groups=4, depth=1, fourier=())
    if exact:
        config.model.update(residual="pixel", data_variance=VARIANCE)
    config.training.weighting = "vlb"
    config.evaluation.tolerance = 1e-4
    choose(config, {name.replace("__", "."): value for name, value in changes.items()})
    check(config)
    return config


def parts(config):
    """(its SDE, its method)."""
    return sde.model(config), sde.build(config)


def levels_of(config):
    return sde.score_levels(config, networks.build(config))


def batch_draw(model, context):
    """(γ, weight) of a training batch."""
    _, gamma, weight = model.draw(model.schedule({}), context)
    return gamma, weight


NOTHING = {"network": {}}  # the parameters of a silent network


def batch_of(x):
    keys = example_keys(jax.random.key(1), jnp.arange(len(x)))
    return {"x": jnp.asarray(x), "cond": {"augmented": jnp.zeros(len(x))}}, keys


def context_of(count):
    index = jnp.arange(count)
    return Context(example_keys(jax.random.key(3), index), jax.random.key(4), index, count)


def gaussian(count, seed=0):
    return (np.random.default_rng(seed).standard_normal((count, *SHAPE)) * VARIANCE**0.5).astype(np.float32)


def paper(kind, t):
    """(α, σ, g²) at t as the paper has them."""
    b = BETA_MIN * t + 0.5 * (BETA_MAX - BETA_MIN) * t**2
    beta, rest = BETA_MIN + (BETA_MAX - BETA_MIN) * t, -np.expm1(-b)
    if kind == "ve_sde":
        sigma = SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** t
        return np.ones_like(t), sigma, 2 * np.log(SIGMA_MAX / SIGMA_MIN) * sigma**2
    if kind == "vp_sde":
        return np.exp(-b / 2), np.sqrt(rest), beta
    return np.exp(-b / 2), rest, beta * -np.expm1(-2 * b)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_weighting_is_g_squared_over_two_times_the_score_s_error(kind, silent):
    """½ γ′ ‖ε − ε̂‖² = ½ g² ‖score − score^‖² at the t of the SDE, score = −ε/σ."""
    config = make(kind, training__times="independent", schedule__t_min=0.02)
    model, method = parts(config)
    context = context_of(64)
    gamma, weight = batch_draw(model, context)
    t = np.asarray(levels_of(config).time_of(gamma), np.float64)
    _, sigma, g2 = paper(kind, t)
    np.testing.assert_allclose(weight, 0.5 * g2 / sigma**2 * (1 - 0.02), rtol=1e-4)  # t is uniform on [t_min, 1]
    batch, _ = batch_of(gaussian(64))
    _, aux = jax.jit(lambda batch: method.phases[0].loss(NOTHING, (), batch, context))(batch)
    bits = 1 / np.log(2)
    np.testing.assert_allclose(aux["diffusion"], weight * aux["error"] * bits, rtol=1e-5)
    np.testing.assert_allclose(aux["t"], t, rtol=1e-6)


@pytest.mark.parametrize("times", ["importance", "stratified", "independent"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_make_every_draw_of_t_unbiased(kind, times):
    """Mean of weight × error(γ) over draws = ½ ∫ error dγ in closed form, error = sigmoid(ln s² − γ)."""
    model, _ = parts(make(kind, training__times=times, schedule__t_min=0.02))
    gamma, weight = (np.asarray(a, np.float64) for a in batch_draw(model, context_of(4096)))
    values = weight * error(gamma, VARIANCE)
    schedule = model.schedule({})
    exact = l_infinity(float(schedule.gamma_0), float(schedule.gamma_1), VARIANCE)
    spread = {"independent": 4 * np.std(values) / 64, "stratified": 2e-2, "importance": 2e-3}[times]
    np.testing.assert_allclose(np.mean(values), exact, atol=spread)
    if times == "importance":
        assert np.std(weight) == 0


def test_ncsn_trains_its_levels():
    model, _ = parts(make("ve_sde", training__num_timesteps=10, training__weighting="simple", schedule__sigma_max=1.0))
    sigma = np.exp(0.5 * np.asarray(batch_draw(model, context_of(1000))[0]))
    # 0.1 of a step of the geometric sequence, as t_min = 1e-5 is taken for 0
    levels, counts = np.unique(np.round(np.log(sigma / 0.01) / np.log(100) * 9, 3), return_counts=True)
    np.testing.assert_allclose(levels, np.arange(10), atol=1e-3)
    np.testing.assert_array_equal(counts, 100)


def test_images_have_twice_the_noise_that_data_in_0_1_would():
    """[−1, 1] is twice [0, 1]: σ of the VE papers is doubled and the network is told theirs."""
    changes = {"data__vocabulary": 256, "data__shape": (4, 4, 1), "model__attention_at": (4,)}
    config = make(
        "ve_sde", exact=False, **changes, model__network="multiscale", model__family="ncsnpp", model__multipliers=(1.0,)
    )
    model, _ = parts(config)
    ends = model.level_of(jnp.stack([model.schedule({}).gamma_0, model.schedule({}).gamma_1]))
    np.testing.assert_allclose(ends.sigma, [2 * SIGMA_MIN, 2 * SIGMA_MAX], rtol=1e-3)
    np.testing.assert_allclose(ends.t, np.log([SIGMA_MIN, SIGMA_MAX]), rtol=1e-3)


def test_networks_are_told_999_t_or_t():
    multiscale = {"data__shape": (4, 4, 1), "model__network": "multiscale", "model__family": "ddpmpp"}
    for changes, top in ((multiscale | {"model__multipliers": (1.0,), "model__attention_at": (4,)}, 999), ({}, 1)):
        for kind in ("vp_sde", "sub_vp_sde"):
            model, _ = parts(make(kind, exact=not changes, **changes))
            t = np.array([1e-5, 0.1, 0.5, 1.0])
            alpha, sigma, _ = paper(kind, t)
            told = model.level_of(jnp.asarray(2 * np.log(sigma / alpha), jnp.float32)).t
            np.testing.assert_allclose(told, top * t, rtol=1e-5)


def test_ncsnpp_s_output_is_the_score_of_data_in_0_1():
    config = make(
        "ve_sde",
        exact=False,
        data__vocabulary=256,
        data__shape=(4, 4, 1),
        model__network="multiscale",
        model__family="ncsnpp",
        model__multipliers=(1.0,),
        model__attention_at=(4,),
    )
    model, method = parts(config)
    params = jax.tree.map(lambda a: jnp.full(a.shape, 0.1), jax.eval_shape(method.init, jax.random.key(0)))
    z = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 1)), jnp.float32)
    level = model.level_of(jnp.array([-2.0, 5.0]))

    def both(z):
        raw = networks.apply(networks.build(config), params["network"], None, z, level, {})
        return raw, method.denoise(params)(z, level, {})

    raw, ours = jax.jit(both)(z)
    sigma = np.exp(0.5 * np.array([-2.0, 5.0])).reshape(2, 1, 1, 1) / 2
    np.testing.assert_allclose(ours, -sigma * raw, rtol=1e-5)
    assert np.abs(ours).max() > 1e-3


MULTISCALE = {"model__network": "multiscale", "model__multipliers": (1.0,), "model__attention_at": (2,)}


@pytest.mark.parametrize("prediction", ["eps", "x", "v"])
@pytest.mark.parametrize("changes", [{"model__network": "mlp"}, MULTISCALE | {"model__family": "ddpmpp"}])
def test_the_other_networks_see_the_vp_latent(changes, prediction):
    """x̂_VE(z, γ) = x̂_VP(α z, γ)."""
    shape = (2,) if changes["model__network"] == "mlp" else SHAPE
    model, method = parts(make("ve_sde", exact=False, data__shape=shape, model__prediction=prediction, **changes))
    rng = np.random.default_rng(1)
    like = jax.eval_shape(method.init, jax.random.key(0))
    params = jax.tree.map(lambda a: 0.3 * rng.standard_normal(a.shape, np.float32), like)
    gamma, t = jnp.array([-3.0, 2.0]), jnp.array([0.3, 0.7])
    vp, ve = noise(gamma, t, VP), noise(gamma, t, VE)
    z = jnp.asarray(gaussian(2).reshape(2, -1)[:, : math.prod(shape)].reshape(2, *shape))
    cond = {c.name: jnp.zeros(2) for c in method.conditions}
    denoise = jax.jit(method.denoise(params))
    x = lambda z, level: model.split(denoise(z, level, cond), z, level).x
    alpha = vp.alpha.reshape(2, *(1,) * len(shape))
    expected = x(alpha * z, vp)
    np.testing.assert_allclose(x(z, ve), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - x(z, vp)).max() > 1e-3  # the scale of z matters


@pytest.mark.parametrize("kind", KINDS)
def test_bound_of_gaussian_data_is_the_closed_form(kind, silent):
    """Reconstruction ½ (1 + ln 2π + γ₀), prior KL, ½ ∫ error dγ: together the data's entropy, nearly."""
    model, method = parts(make(kind, schedule__t_min=0.01))
    batch, keys = batch_of(gaussian(4000))
    terms = jax.jit(method.bits_per_dim)(NOTHING, batch, keys)
    gamma_0, gamma_1 = float(model.schedule({}).gamma_0), float(model.schedule({}).gamma_1)
    last = model.level_of(model.schedule({}).gamma_1)
    p = float(model.process.prior_variance(last.gamma))
    v, q = float(last.alpha**2 * VARIANCE + last.sigma**2), float(last.sigma**2)
    nats = {
        "reconstruction": 0.5 * (1 + np.log(2 * np.pi) + gamma_0),
        "prior": 0.5 * (v / p - 1 - np.log(q / p)),
        "diffusion": l_infinity(gamma_0, gamma_1, VARIANCE),
    }
    for name, value in {**nats, "control": 0.0}.items():
        each = np.asarray(terms[name], np.float64) * np.log(2)
        np.testing.assert_allclose(each.mean(), value, atol=4 * each.std() / np.sqrt(4000) + 2e-5, err_msg=name)
    entropy = 0.5 * np.log(2 * np.pi * np.e * VARIANCE)
    np.testing.assert_allclose(sum(nats.values()), entropy, atol=0.02)
    assert np.all(np.asarray(terms["dequantization"]) == 0)
    np.testing.assert_allclose(terms["total"], sum(terms[k] for k in (*nats, "control")), rtol=1e-4, atol=1e-4)
    # where t falls is most of the variance, and the control takes it away
    assert np.std(terms["total"]) < 0.8 * np.std(terms["diffusion"])


@pytest.mark.parametrize(("kind", "vocabulary"), [("vp_sde", 0), ("sub_vp_sde", 5), ("ve_sde", 5)])
def test_flow_of_gaussian_data_is_the_closed_form(kind, vocabulary, silent):
    """log N(f; 0, α₀² s² + σ₀²) + the prior's error at z_1; of levels, for dequantized f and with log₂(V/2) more."""
    model, method = parts(make(kind, data__vocabulary=vocabulary, evaluation__estimator="ode"))
    rng = np.random.default_rng(0)
    batch, keys = batch_of(rng.integers(0, 5, (6, *SHAPE)).astype(np.int32) if vocabulary else gaussian(6))
    terms = jax.jit(method.bits_per_dim)(NOTHING, batch, keys)
    f = np.asarray(model.data.drawn(NOTHING, batch["x"], keys)[0], np.float64)
    first, last = (model.level_of(g) for g in (model.schedule({}).gamma_0, model.schedule({}).gamma_1))
    v_0, v_1 = (float(n.alpha**2 * VARIANCE + n.sigma**2) for n in (first, last))
    z_1 = f * np.sqrt(v_1 / v_0)
    p = float(model.process.prior_variance(last.gamma))
    log_p = log_normal(f, v_0) + log_normal(z_1, p) - log_normal(z_1, v_1)
    np.testing.assert_allclose(terms["flow"], -log_p / (4 * np.log(2)), atol=3e-3)
    extra = np.log2(2.5) if vocabulary else 0.0
    np.testing.assert_allclose(terms["dequantization"], extra, rtol=1e-6)
    np.testing.assert_allclose(terms["total"], terms["flow"] + extra, rtol=1e-5, atol=1e-5)
    assert np.all(terms["evaluations"] > 6)


def test_flow_bounds_the_bits_of_discrete_data(silent):
    """E_u of the density's bits in closed form, and never below −log₂ of the model's mass in the bin."""
    vocabulary, passes = 5, 200
    config = make("vp_sde", data__vocabulary=vocabulary, evaluation__estimator="ode", data__shape=(1, 1, 1))
    model, method = parts(config)
    levels = np.tile(np.arange(vocabulary), passes).reshape(-1, 1, 1, 1)
    batch, keys = batch_of(levels.astype(np.int32))
    bits = np.asarray(jax.jit(method.bits_per_dim)(NOTHING, batch, keys)["total"]).reshape(passes, vocabulary)
    first = model.level_of(model.schedule({}).gamma_0)
    v, width = float(first.alpha**2 * VARIANCE + first.sigma**2), 2 / vocabulary
    center = 2 * (np.arange(vocabulary) + 0.5) / vocabulary - 1
    closed = 0.5 * ((center**2 + width**2 / 12) / v + np.log(2 * np.pi * v)) / np.log(2) - np.log2(width)
    np.testing.assert_allclose(bits.mean(0), closed, atol=4 * bits.std(0).max() / np.sqrt(passes) + 1e-3)
    mass = np.diff(norm.cdf(np.linspace(-1, 1, vocabulary + 1), 0, np.sqrt(v)))
    assert np.all(bits.mean(0) > -np.log2(mass) - 4 * bits.std(0) / np.sqrt(passes))


def drawn(kind, sampler, count, **changes):
    config = make(kind, sampling__sampler=sampler, schedule__t_min=1e-3, **changes)
    _, method = parts(config)
    keys = example_keys(jax.random.key(5), jnp.arange(count))
    run = jax.jit(lambda keys, steps: method.sample(NOTHING, keys, {}, steps, (1,)), static_argnums=1)
    return run, keys


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "sampler", "steps"),
    [
        ("vp_sde", "predictor_corrector", 60),
        ("ve_sde", "predictor_corrector", 100),
        ("sub_vp_sde", "euler_maruyama", 150),
        ("ve_sde", "langevin", 20),
        ("ve_sde", "heun", 80),
    ],
)
def test_samples_have_the_variance_of_the_data(kind, sampler, steps, silent):
    """On 64 dimensions, as the norms of few vary too much for the corrector's rule."""
    changes = {"sampling__corrector_steps": 80, "sampling__snr": 0.25} if sampler == "langevin" else {}
    run, keys = drawn(kind, sampler, 200, data__shape=(8, 8, 1), **changes)
    x, path = run(keys, steps)
    assert x.shape == (200, 8, 8, 1) and path.shape == (1, 200, 8, 8, 1)
    np.testing.assert_allclose(np.var(x), VARIANCE, rtol=0.12)
    np.testing.assert_allclose(np.mean(x), 0, atol=0.02)
    # latents that are kept are shown on the scale of VP: of variance near 1 after two of the steps
    assert 0.5 < np.var(path) < 1.5


@pytest.mark.slow
def test_samples_of_levels_are_levels_and_depend_on_their_own_key_alone(silent):
    run, keys = drawn("ve_sde", "predictor_corrector", 4, data__vocabulary=5)
    x, _ = run(keys, 12)
    assert x.dtype == jnp.int32 and x.min() >= 0 and x.max() <= 4 and len(np.unique(x)) > 2
    np.testing.assert_array_equal(run(keys[1:3], 12)[0], x[1:3])


def test_without_denoising_the_noise_of_t_min_is_left(silent):
    """Var z_0/α_0 − Var x̂ = σ_0² (1 + ŝ²)-ish: with σ_min = .5 plain to see."""
    changes = {"schedule__sigma_min": 0.5, "sampling__denoise": False}
    noisy, clean = (
        np.var(run(keys, 60)[0])
        for run, keys in (
            drawn("ve_sde", "ancestral", 1000, **c) for c in (changes, changes | {"sampling__denoise": True})
        )
    )
    np.testing.assert_allclose(noisy, VARIANCE + 0.25, rtol=0.08)
    np.testing.assert_allclose(clean, VARIANCE**2 / (VARIANCE + 0.25), rtol=0.1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"training__weighting": "hybrid"},
            "weighting='hybrid' does not go with config.method='sde'; it takes 'vlb' or 'simple'",
        ),
        ({"training__times": "importance", "training__weighting": "simple"}, "set times to 'stratified'"),
        ({"training__num_timesteps": 10}, "trains on the noise levels of NCSN"),
        ({"evaluation__num_timesteps": 10}, "evaluation.num_timesteps: config.method='sde' has no such field"),
        ({"sampling__sampler": "langevin", "sampling__num_steps": 1}, "2 or more"),
        ({"sampling__respacing": "ddim50"}, "has no such field; it belongs to config.method='ddpm'"),
        ({"sampling__draw": True}, "has no such field; it belongs to config.method='vdm'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        make("ve_sde", **changes)


def test_levels_come_back_from_their_encoding():
    model, method = parts(make("ve_sde", data__vocabulary=17))
    x = jnp.asarray(np.random.default_rng(0).integers(0, 17, (5, *SHAPE)))
    level = model.level_of(model.schedule({}).gamma_0)
    np.testing.assert_array_equal(method.decode(level.alpha * method.encode(x), level), x)


@pytest.mark.parametrize("kind", ["vp_sde", "sub_vp_sde"])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_the_flow_s_steps_leave_no_noise_where_the_data_are_a_point(kind, sampler):
    """ε̂ of x = 0 is z/σ: a step of δ multiplies z/α by 1 − δ/2 (+ δ²/8), which must stay below 1 to the end."""
    config = make(kind, sampling__sampler=sampler)
    model, _ = parts(config)
    steps, grid = model.steps.transitions(sampler, model.schedule({}), model.level_of, 70)
    assert len(grid) == 71 and float(jnp.max(steps.delta)) < 2 and steps.to.gamma[-1] == model.schedule({}).gamma_0
    predict = lambda z, level: Prediction(jnp.zeros_like(z), z / level.sigma)
    rule = sampling.step_rule(model.sampler, predict, model.process, model.schedule({}), grid, {})
    z, _ = samplers.run(rule, jnp.ones((1, *SHAPE)), jax.random.split(jax.random.key(0), 1), steps)
    assert float(jnp.max(jnp.abs(z))) < 2e-3  # σ at t_min is 1e-3, or less


def test_samples_may_end_above_t_min():
    """sampling.t_min = .01: the last step ends at that t of the SDE, whatever it is equal in."""
    model, _ = parts(make("vp_sde"))
    end = (0.01 - 1e-5) / (1 - 1e-5)
    for sampler in ("euler_maruyama", "heun", "ancestral"):
        steps, _ = replace(model.steps, end=end).transitions(sampler, model.schedule({}), model.level_of, 10)
        np.testing.assert_allclose(levels_of(make("vp_sde")).time_of(steps.to.gamma[-1]), 0.01, rtol=1e-4)
