"""The quadrature of the mixture, and the facts that the committed results of `ddpm_sde` must show."""

import json
import pathlib

import numpy as np

from experiments import mixture
from experiments.ddpm import ddpm_sde
from experiments.mixture import EXAMPLE

RESULTS = pathlib.Path(mixture.__file__).parent / "results" / "ddpm_sde.json"


def committed(prefix):
    """{rest of the row's name: {metric: mean}}."""
    rows = json.loads(RESULTS.read_text("utf-8"))["rows"]
    found = {e["name"]: e["measured"] for e in rows if e["name"].startswith(prefix)}
    return {name.removeprefix(prefix): {k: v["mean"] for k, v in m.items()} for name, m in found.items()}


def test_mixture_keeps_its_shape_under_noise():
    noised = EXAMPLE.at(0.3)
    draws = np.sqrt(0.3) * EXAMPLE.sample(np.random.default_rng(0), 200_000)
    draws += np.sqrt(0.7) * np.random.default_rng(1).standard_normal(200_000)
    np.testing.assert_allclose(draws.var(), 0.3 * EXAMPLE.variance + 0.7, rtol=0.01)
    np.testing.assert_allclose(noised.variance, 0.3 * EXAMPLE.variance + 0.7, rtol=1e-12)
    edges = np.array([-1.0, 0.0, 1.0])
    grid = np.linspace(-8, 8, 16_001)
    for edge in edges:
        below = noised.density(grid[grid <= edge]).sum() * 1e-3
        np.testing.assert_allclose(np.mean(draws <= edge), below, atol=0.005)
    slope = np.gradient(np.log(noised.density(grid)), grid)
    np.testing.assert_allclose(noised.score(grid)[6000:10_000], slope[6000:10_000], atol=1e-4)
    np.testing.assert_allclose(EXAMPLE.standardized().variance, 1, rtol=1e-14)


def test_reverse_step_by_quadrature_has_the_moments_that_the_score_gives():
    """Var = σ²/(1 − σ²) (1 + σ² ∂² log p), the mean's second formula."""
    below, s = EXAMPLE.at(0.5), 0.02
    step = mixture.reverse_step(below, s)
    middle = np.abs(step.z) < 3
    width = (step.previous[:, -1] - step.previous[:, 0]) / 200
    np.testing.assert_allclose(((step.density * step.previous).sum(1) * width)[middle], step.mean[middle], atol=1e-9)
    h = 1e-4
    above = below.at(1 - s)
    curvature = (above.score(step.z + h) - above.score(step.z - h)) / (2 * h)
    np.testing.assert_allclose(step.variance[middle], (s / (1 - s) * (1 + s * curvature))[middle], rtol=1e-6)


def test_distance_of_a_gaussian_from_gaussians_is_the_closed_form():
    one = mixture.Mixture(np.array([1.0]), np.array([0.0]), np.array([1.0]))
    step = mixture.reverse_step(one, 0.1, np.array([0.5]))  # N(√.9 z, .1)
    np.testing.assert_allclose([step.mean[0], step.variance[0]], [np.sqrt(0.9) * 0.5, 0.1], rtol=1e-6)
    kl, tv = mixture.distances(step, 0.2)
    np.testing.assert_allclose(kl, 0.5 * (0.5 - 1 - np.log(0.5)), rtol=1e-5)
    np.testing.assert_allclose(tv, 0.16636, atol=1e-3)  # ∫ |N(0, 1) − N(0, 2)|/2
    assert mixture.modes(step.density)[0] == 1 and max(abs(d[0]) for d in mixture.distances(step, 0.1)) < 1e-6


def test_one_noise_must_not_be_taken_for_the_other():
    row = committed("one step, ")["σ² = 0.02"]
    np.testing.assert_allclose([row["mean_by_eps"], row["mean_by_step_eps"]], row["mean_exact"], rtol=1e-9)
    np.testing.assert_allclose([row["mean_exact"], row["mean_mixed_up"]], [0.893510, 0.830221], atol=1e-6)
    np.testing.assert_allclose([row["share_step_eps"], row["share_eps"]], [0.021, 0.53], atol=0.005)
    np.testing.assert_allclose(committed("one step, ")["σ² = 0.0001"]["share_step_eps"], 1e-4, rtol=0.1)
    assert row["variance_at_0.2"] > row["beta"] > row["beta_tilde"]


def test_reverse_steps_become_gaussian_as_they_become_small_and_multimodal_as_they_grow():
    rows = committed("reverse step, ")
    found = [rows[f"σ² = {s:g}"] for s in ddpm_sde.SINGLE]
    for metric in ("kl_own_variance", "tv_own_variance", "kl_step_variance", "tv_step_variance"):
        assert (np.diff([m[metric] for m in found]) > 0).all()
    assert found[0]["kl_own_variance"] < 1e-6 and found[0]["share_multimodal"] == 0
    assert found[-1]["kl_own_variance"] > 0.1 and found[-1]["share_multimodal"] > 0.99
    # KL from N(mean, σ²) falls like σ⁴, from N(mean, own variance) like σ⁶
    for metric, order in (("kl_step_variance", 2), ("kl_own_variance", 3)):
        slope = np.log(found[1][metric] / found[0][metric]) / np.log(ddpm_sde.SINGLE[1] / ddpm_sde.SINGLE[0])
        assert abs(slope - order) < 0.1


def test_the_loss_of_a_whole_chain_falls_with_the_steps():
    rows = committed("whole chain, ")
    loss = [rows[f"σ² = {s:g}"]["loss_step_variance"] for s in ddpm_sde.WHOLE]
    assert (np.diff(loss) < 0).all() and loss[0] / loss[-1] > 4
    assert all(m["prior"] < 1e-6 for m in rows.values())


def test_the_limit_is_approached_at_first_order():
    rows = committed("limit, ")
    for metric in ("mean_factor_off", "euler_mean_factor_off", "euler_variance_off"):
        np.testing.assert_allclose(rows["σ² = 0.02"][metric] / rows["σ² = 0.002"][metric], 10, rtol=0.05)
    assert [rows[f"σ² = {s}"]["levels"] for s in (0.02, 0.01)] == [456, 917]


def test_only_standardized_data_have_unit_variance_at_every_level():
    rows = committed("variance of z, ")
    for name, m in rows.items():
        if "standardized" in name:
            assert m["largest_deviation"] < 1e-12
            assert max(abs(m["variance_z_1"] - 1), abs(m["variance_z_36"] - 1)) < 0.03
        else:
            assert m["largest_deviation"] > 0.4 and m["variance_z_1"] < m["variance_z_36"] < 0.9


def test_both_forms_of_the_bound_agree_and_differ_in_variance():
    rows = json.loads(RESULTS.read_text("utf-8"))["rows"]
    for entry in (e for e in rows if e["name"].startswith("bound")):
        m = entry["measured"]
        assert abs(m["kl_minus_path"]["mean"]) < 4 * m["kl_minus_path"]["standard_error"] < 0.01
        assert m["deviation_level_kl"]["mean"] < 0.2 * m["deviation_level_ratio"]["mean"]
        above = m["path_nats"]["mean"] - m["minus_log_p"]["mean"]
        exact = entry["config"]["model"] == "exact"
        assert (abs(above) < 1e-9 and m["deviation_path"]["mean"] == 0) if exact else above > 0.05
