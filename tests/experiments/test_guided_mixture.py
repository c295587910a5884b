"""The closed forms of `guided_mixture`, and the facts that its committed results must show."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.guidance import guided_mixture
from experiments.guidance.guided_mixture_model import PLANE, at, network
from tests.results import measured
from vdm_jax.diffusion import prediction
from vdm_jax.diffusion.process import VE, VP

SAMPLES = [f"{rule}, {scores} scores" for rule in ("flow", "SDE") for scores in ("exact", "trained")]


committed = partial(measured, "guided_mixture")


def by_weight(prefix, metric):
    """The metric at every w."""
    rows = committed()
    return [rows[f"{prefix}, w = {w:g}"][metric] for w in guided_mixture.WEIGHTS]


def within(found, value, errors=4.0):
    return abs(found["mean"] - value) < errors * found["standard_error"]


def test_scores_and_curvatures_are_derivatives_of_the_densities():
    level = at(-1.0, VP)

    @jax.jit
    def both(z):
        log_p = lambda z: jax.nn.logsumexp(PLANE.parts(z[None], level)[0])
        of_class = lambda z: PLANE.parts(z[None], level)[0][0, 1]
        autodiff = jax.vmap(jax.grad(log_p))(z), jax.vmap(jax.grad(of_class))(z), jax.vmap(jax.hessian(log_p))(z)
        labels = jnp.array([1, 3])
        eps = [PLANE.denoise(z, level, jnp.full(len(z), k)) for k in (1, 3)]
        return PLANE.scores(z, level)[:, labels], PLANE.curvature(z, level), autodiff, jnp.stack(eps, axis=1)

    z = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)), jnp.float32)
    scores, curvature, (whole, own, hessian), eps = both(z)
    np.testing.assert_allclose(scores, np.stack([own, whole], axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(curvature, np.diagonal(hessian, axis1=1, axis2=2), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(eps, -level.sigma * scores, rtol=1e-5)


def test_the_network_is_one_function_of_the_signal_to_noise_ratio():
    """x̂_VE(z) = x̂_VP(α z): trained under VP, sampled under VE."""
    params = [{"kernel": jnp.ones((12, 1)) / 7, "bias": jnp.full(1, 0.1)}]
    vp, ve, labels = at(0.7, VP), at(0.7, VE), jnp.array([0, 3])
    z = jnp.array([[0.3], [-1.1]])

    @jax.jit
    def found(z, level):
        spread = jax.tree.map(lambda a: jnp.broadcast_to(a, 2), level)
        return prediction.split(network(params, z, spread, labels), z, spread, "v").x

    np.testing.assert_allclose(found(z, ve), found(vp.alpha * z, vp), rtol=1e-5)


def test_samples_do_not_follow_the_tilted_density():
    """w = 3, right-hand class: density 1.124 ± .280, flow 1.608 ± .178, SDE 1.307 ± .276."""
    rows = committed()
    tilted = rows["tilted density, w = 3"]
    np.testing.assert_allclose(
        [tilted["right_mean"]["mean"], tilted["right_deviation"]["mean"]], [1.124, 0.280], atol=5e-4
    )
    for rule, mean, deviation in (("flow", 1.608, 0.178), ("SDE", 1.307, 0.276)):
        found = rows[f"{rule}, exact scores, w = 3"]
        assert within(found["right_mean"], mean) and within(found["right_deviation"], deviation)
        assert not within(found["right_mean"], tilted["right_mean"]["mean"], 20)


@pytest.mark.parametrize("name", SAMPLES)
def test_without_guidance_all_follow_the_density_of_the_class(name):
    slack = 0.0 if "exact" in name else 0.03
    found = committed()[f"{name}, w = 0"]
    for metric, value in (("right_mean", 1.0), ("right_deviation", 0.35)):
        assert abs(found[metric]["mean"] - value) < slack + 4 * found[metric]["standard_error"]


@pytest.mark.parametrize("name", [*SAMPLES, "tilted density"])
def test_guidance_raises_the_likelihood_of_the_class_and_lowers_that_of_the_sample(name):
    of_class, unconditional = by_weight(name, "log_p_class"), by_weight(name, "log_p")
    error = lambda a, b: 2 * math.hypot(a["standard_error"] or 0, b["standard_error"] or 0)
    for rising in (of_class, by_weight(name, "accuracy")):
        assert all(b["mean"] >= a["mean"] - error(a, b) for a, b in itertools.pairwise(rising))
        assert rising[2]["mean"] > rising[0]["mean"] + error(rising[0], rising[2])
    assert all(b["mean"] < a["mean"] + error(a, b) for a, b in itertools.pairwise(unconditional))
    # at w = 3: beyond it, outside their data, the trained networks of two seeds differ
    assert unconditional[2]["mean"] < unconditional[0]["mean"] - error(unconditional[0], unconditional[2])


@pytest.mark.parametrize("name", SAMPLES)
def test_the_likelihood_given_the_class_rises_in_the_middle_and_falls_in_all(name):
    """log p(x|c) = log p(c|x) + log p(x) − log p(c): outer classes are driven out of their own density."""
    middle, whole = by_weight(name, "log_p_given_class_middle"), by_weight(name, "log_p_given_class")
    assert middle[-1]["mean"] > middle[0]["mean"] + 0.3
    assert whole[1]["mean"] > whole[0]["mean"] and whole[1]["mean"] > whole[-1]["mean"] + 0.1


def test_the_implicit_classifier_is_nearly_the_exact_one():
    rows = {name: m for name, m in committed().items() if name.startswith("classifier")}
    assert len(rows) == len(guided_mixture.LEVELS) + 2
    for m in rows.values():
        assert abs(m["implicit_minus_exact"]["mean"]) < 0.01 + 3 * m["implicit_minus_exact"]["standard_error"]
        assert m.get("kl", {"mean": 0.0})["mean"] < 0.01
    accuracy = [rows[f"classifier at γ = {g:g}"]["accuracy_exact"]["mean"] for g in guided_mixture.LEVELS]
    assert all(a > b + 0.05 for a, b in itertools.pairwise(accuracy))  # noise takes the class away


def test_an_exact_classifier_wants_the_score_shift_and_both_shifts_meet_in_many_steps():
    rows = committed()
    kl = {
        by: [rows[f"{by}, {n} steps"]["kl_of_moments"]["mean"] for n in guided_mixture.SPACINGS]
        for by in guided_mixture.GUIDED
    }
    channels, scalar, conditional = kl.values()
    assert max(conditional) < 2e-3
    for falling in (channels, scalar):
        assert all(a > 3 * b for a, b in itertools.pairwise(falling)) and falling[-1] < 2e-3
    assert all(a > 2 * b for a, b in zip(channels[:3], scalar[:3], strict=True))
    biased = rows["Σ of every channel, 10 steps"]["mean_off_broad"]
    assert biased["mean"] < -20 * biased["standard_error"]
    assert within(rows["one σ², 10 steps"]["mean_off_broad"], 0.0)
