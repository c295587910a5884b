"""The row store of the experiments, and the facts that the committed results must show."""

import itertools
import json
import math

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import common, tables
from experiments.common import Measured, Outcome, Row
from experiments.vdm import discrete_bound, gaussian, schedule_invariance, schedule_variance, swirl
from tests.results import RESULTS, measured
from vdm_jax.diffusion import schedules
from vdm_jax.errors import UserError

ABOUT = {"experiment": "toy", "scale": "mini", "hardware": "1 × cpu", "data": "none (v1)", "command": "python -m toy"}
ROWS = [
    Row("a", {"rate": 0.1, "sizes": (1, 2)}),
    Row("b", {"rate": 0.2}, {"loss": 2.5}),
    Row("c", {}, {"loss": 1.0}, True),
]


def recorder(calls, fail_at=None):
    """A measurement that notes what was asked of it, and dies at one call."""

    def measure(row, seed):
        if (row.name, seed) == fail_at:
            raise KeyboardInterrupt
        calls.append((row.name, seed))
        return Outcome({"loss": Measured(seed + len(row.name), 0.5, 10)}, {"curve": [1.0, 2.0]})

    return measure


def test_a_run_that_is_there_is_not_measured_again(tmp_path):
    calls, path = [], tmp_path / "toy.json"
    first = common.fill(path, ABOUT, ROWS, 2, recorder(calls))
    assert calls == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert common.fill(path, ABOUT, ROWS, 2, recorder(calls)) == first == json.loads(path.read_text("utf-8"))
    assert len(calls) == 4
    common.fill(path, ABOUT, ROWS, 3, recorder(calls))
    assert calls[4:] == [("a", 3), ("b", 3)]


def test_a_killed_experiment_goes_on_where_it_was(tmp_path):
    calls, path = [], tmp_path / "toy.json"
    with pytest.raises(KeyboardInterrupt):
        common.fill(path, ABOUT, ROWS, 2, recorder(calls, fail_at=("a", 2)))
    assert [entry["name"] for entry in json.loads(path.read_text("utf-8"))["rows"] if entry["runs"]] == ["a", "b"]
    resumed = common.fill(path, ABOUT, ROWS, 2, recorder(calls))
    assert calls == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert resumed == common.fill(tmp_path / "straight.json", ABOUT, ROWS, 2, recorder([]))


def test_a_kill_while_writing_leaves_the_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "toy.json"
    common.fill(path, ABOUT, ROWS, 1, recorder([]))
    before = path.read_text("utf-8")

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(common.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        common.fill(path, ABOUT, ROWS, 2, recorder([]))
    assert path.read_text("utf-8") == before


@pytest.mark.parametrize(
    ("about", "rows", "word"),
    [
        (ABOUT, [Row("a", {"rate": 0.3, "sizes": (1, 2)}), *ROWS[1:]], "another config (rate)"),
        (ABOUT, ROWS[1:], "the row 'a'"),
        ({**ABOUT, "scale": "paper"}, ROWS, "scale='mini'"),
        ({**ABOUT, "data": "none (v2)"}, ROWS, "data='none (v1)'"),
        ({**ABOUT, "experiment": "other"}, ROWS, "experiment='toy'"),
    ],
)
def test_results_of_another_setting_are_refused(about, rows, word, tmp_path):
    path = tmp_path / "toy.json"
    common.fill(path, ABOUT, ROWS, 1, recorder([]))
    before = path.read_text("utf-8")
    with pytest.raises(UserError, match=r"toy\.json") as caught:
        common.fill(path, about, rows, 2, recorder([]))
    assert word in str(caught.value)
    assert path.read_text("utf-8") == before


def test_a_new_row_joins_the_old_ones(tmp_path):
    calls, path = [], tmp_path / "toy.json"
    common.fill(path, ABOUT, ROWS, 1, recorder([]))
    common.fill(path, ABOUT, [Row("new", {}), *ROWS], 1, recorder(calls))
    assert calls == [("new", 1)]


def test_errors_over_seeds_and_within_runs_are_joined():
    """Means 1, 2, 3: over seeds sd/√3 = 1/√3; within a run .3, which the seeds share."""
    runs = {str(k): {"measured": {"m": {"mean": k, "standard_error": 0.3, "n": 297}}} for k in (1, 2, 3)}
    found = common.summary(runs)["m"]
    assert (found["mean"], found["seeds"], found["n"]) == (2.0, 3, 297)
    np.testing.assert_allclose(found["over_seeds"], 1 / math.sqrt(3))
    np.testing.assert_allclose(found["within_run"], 0.3)
    np.testing.assert_allclose(found["standard_error"], math.sqrt(1 / 3 + 0.09))
    one = common.summary({"1": runs["1"]})["m"]
    assert (one["standard_error"], one["over_seeds"]) == (0.3, None)


def test_standard_errors_cover_the_truth():
    """Of 400 estimates, about 95.4 % lie within two of their standard errors: means, columns, variances."""
    rng = np.random.default_rng(0)
    images = rng.normal(0, 2.0, (400, 1, 50))
    cases = (
        (common.mean_of, rng.normal(1.0, 3.0, (400, 60)), 1.0),
        (common.mean_of, images + rng.normal(0, 1.0, (400, 8, 50)), 0.0),  # passes share their images
        (common.variance_of, rng.normal(1.0, 3.0, (400, 2000)), 9.0),
    )
    for estimate, draws, truth in cases:
        found = [estimate(draw) for draw in draws]
        inside = np.mean([abs(m.mean - truth) < 2 * m.standard_error for m in found])
        assert 0.92 < inside < 0.98


def test_numbers_keep_two_digits_of_their_error():
    assert tables.number(1.83249, 0.0123) == "1.832 ± 0.012"
    assert tables.number(32307.4, 54.2) == "32,307 ± 54"
    assert tables.number(1.5, None) == "1.5"


def test_the_table_tells_measured_paper_and_quoted_apart(tmp_path):
    results = common.fill(tmp_path / "toy.json", ABOUT, ROWS, 1, recorder([]))
    text = tables.markdown(results, "Toy", "Notes.")
    assert "Small-scale" in text and "none (v1)" in text and "`python -m toy`" in text
    assert "| row | loss | loss, paper | seeds | n |" in text
    assert "| a | 2.00 ± 0.50 | – | 1 | 10 |" in text
    assert "| b | 2.00 ± 0.50 | 2.5 | 1 | 10 |" in text
    assert "| c | – | 1 | – | quoted |" in text
    assert "Small-scale" not in tables.markdown({**results, "scale": "paper"}, "Toy", "Notes.")


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (lambda r: r.pop("data"), "data"),
        (lambda r: r.update(scale="large"), "scale"),
        (lambda r: r["rows"][0].pop("quoted"), "quoted"),
        (lambda r: r["rows"][0].update(measured={}), "neither measured nor quoted"),
        (lambda r: r["rows"][2].update(measured=r["rows"][0]["measured"]), "cannot be measured"),
        (lambda r: r["rows"][0]["measured"]["loss"].update(mean=float("nan")), "finite"),
        (lambda r: r["rows"][0]["measured"]["loss"].pop("n"), "lacks n"),
    ],
)
def test_the_schema_notices(harm, word, tmp_path):
    results = common.fill(tmp_path / "toy.json", ABOUT, ROWS, 1, recorder([]))
    assert common.problems(results) == []
    harm(results)
    assert any(word in problem for problem in common.problems(results))


def test_gaussian_numbers_of_the_exact_denoiser():
    """L_T of x ~ N(0, 1/3), γ from −13.3 to 5; variances in 64 dimensions, γ from −8 to 5."""
    for steps, value in ((10, 16.138372), (100, 6.643253), (1000, 6.151121), (10_000, 6.104702), (0, 6.099575)):
        np.testing.assert_allclose(gaussian.bound(-13.3, 5.0, 1 / 3, steps), value, atol=5e-7)
    t = (np.arange(200_000) + 0.5) / 200_000
    np.testing.assert_allclose(gaussian.loss_variance(-8 + 13 * t, np.full_like(t, 13.0), 64, 1 / 3), 32_287, atol=0.5)
    best = gaussian.best_path(t, -8.0, 5.0, 1 / 3)
    np.testing.assert_allclose(gaussian.loss_variance(*best, 64, 1 / 3), 1523.6, atol=0.05)
    np.testing.assert_allclose(np.gradient(best[0], t)[1:-1], best[1][1:-1], rtol=1e-3)


def test_squared_error_of_the_exact_denoiser_is_m_times_chi_square():
    gamma = np.linspace(-8, 5, 5)
    for level in gamma:
        draws = gaussian.squared_error(jax.random.key(0), np.full(20_000, level, np.float32), 64, 1 / 3)
        m = float(gaussian.mean_error(level, 1 / 3))
        np.testing.assert_allclose(np.mean(draws), 64 * m, rtol=0.005)
        np.testing.assert_allclose(np.var(draws), 2 * 64 * m**2, rtol=0.05)


def test_random_paths_rise_between_the_same_endpoints():
    for number in (1, 2):
        shape = schedules.Monotone(**schedule_invariance.random_shape(number))
        path = schedules.Schedule(np.float32(-8), np.float32(5), shape)
        gamma = np.asarray(path.gamma(np.linspace(0, 1, 101, dtype=np.float32)))
        assert gamma[0] == -8 and gamma[-1] == 5 and (np.diff(gamma) > 0).all()
        assert np.abs(gamma - np.linspace(-8, 5, 101)).max() > 1


def test_density_of_the_swirl_integrates_to_one():
    axis = np.linspace(-3.2, 3.2, 81)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    total = sum(np.exp(-swirl.data_nats(part)).sum() for part in np.array_split(points, 20))
    np.testing.assert_allclose(total * (axis[1] - axis[0]) ** 2, 1, rtol=1e-6)


def test_committed_results_are_whole_and_their_tables_and_figures_are_there():
    files = sorted(RESULTS.glob("*.json"))
    names = {file.stem for file in files}
    assert {"discrete_bound", "schedule_variance", "schedule_invariance", "vdm_ablation", "swirl"} <= names
    for file in files:
        results = json.loads(file.read_text("utf-8"))
        assert common.problems(results) == [] and results["experiment"] == file.stem
        for entry in results["rows"]:
            assert entry["quoted"] or entry["measured"] == common.summary(entry["runs"])
        table = file.with_suffix(".md").read_text("utf-8")
        assert all(f"| {entry['name']} |" in table for entry in results["rows"])
        assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_discrete_bounds_lie_above_the_continuous_one_and_the_gap_falls_like_one_over_t():
    rows = measured("discrete_bound")
    for prefix, unit in (("", "bits"), ("exact denoiser, ", "nats")):
        steps = [s for s in discrete_bound.STEPS if s]
        found = [rows[f"{prefix}{discrete_bound.label(s)}"] for s in steps]
        gap = [m[f"minus_continuous_{unit}"] for m in found]
        assert all(g["mean"] > 5 * g["standard_error"] for g in gap)
        assert all(a["mean"] > b["mean"] for a, b in itertools.pairwise(gap))
        for s, g, m in zip(steps, gap, found, strict=True):
            if s >= 300:  # the next order is Δ times as large
                assert abs(g["mean"] / m[f"law_{unit}"]["mean"] - 1) < 0.03 + 3 * g["standard_error"] / g["mean"]


def test_exact_denoiser_has_its_closed_form():
    for name, m in measured("discrete_bound").items():
        if name.startswith("exact"):
            assert (
                abs(m["nats_per_dim"]["mean"] - m["closed_form_nats"]["mean"]) < 4 * m["nats_per_dim"]["standard_error"]
            )


def test_variance_falls_and_the_bound_stays():
    rows = measured("schedule_variance")
    exact = {path: rows[f"exact denoiser, {path} γ"] for path in schedule_variance.PATHS}
    variance = {path: m["variance_nats2"]["mean"] for path, m in exact.items()}
    assert variance["linear"] > 6 * variance["learned"] > 6 * variance["best"]
    for m in exact.values():
        assert (
            abs(m["variance_nats2"]["mean"] - m["variance_by_quadrature"]["mean"])
            < 4 * m["variance_nats2"]["standard_error"]
        )
        bound = m["diffusion_nats"]
        assert abs(bound["mean"] - 64 * gaussian.bound(-8.0, 5.0, 1 / 3)) < 4 * bound["standard_error"]
    before, after = (rows[f"trained network, {path} γ"] for path in ("linear", "learned"))
    assert before["variance_bits2"]["mean"] > 2 * after["variance_bits2"]["mean"]
    shift = after["minus_linear_bits"]
    assert abs(shift["mean"]) < 3.5 * shift["standard_error"] < 0.2


def test_paths_agree_on_the_bound_and_not_on_its_variance():
    rows = measured("schedule_invariance")
    shifts = [m["minus_linear_bits"] for m in rows.values() if "minus_linear_bits" in m]
    assert len(shifts) == 3 and all(abs(m["mean"]) < 3.5 * m["standard_error"] < 0.2 for m in shifts)
    variances = [m["variance_bits2"]["mean"] for m in rows.values()]
    assert max(variances) > 3 * min(variances)


def test_fourier_features_carry_the_fine_scale():
    """Without them the bits rise at a fixed γ(0); a learned γ(0) rises instead, at the cost of reconstruction."""
    rows = measured("vdm_ablation")
    bits = {name: m["bits_per_dim"]["mean"] for name, m in rows.items() if m}
    assert bits["no Fourier features, γ fixed"] > bits["Fourier features, γ fixed"] + 0.05
    recon = {name: m["reconstruction"]["mean"] for name, m in rows.items() if m}
    assert recon["no Fourier features, γ learned"] > 1.5 * recon["Fourier features, γ learned"]
    assert bits["Fourier features, γ fixed, T = 10"] > bits["Fourier features, γ fixed"] + 1


def test_swirl_is_near_the_entropy_of_its_data_and_more_steps_help():
    rows = measured("swirl")
    for name in ("variational bound", "probability-flow ODE"):
        excess = rows[name]["minus_entropy"]
        assert -4 * excess["standard_error"] < excess["mean"] < 0.3 + 4 * excess["standard_error"]
    first, last = (rows[f"samples, {n} steps"]["nats_of_samples"] for n in (5, 250))
    assert first["mean"] > last["mean"] + 4 * math.hypot(first["standard_error"], last["standard_error"])


def test_likelihoods_of_one_data_set_stand_beside_the_quoted_ones():
    """Every measured row has its error; flows of score SDEs agree, and lie below the bounds of DDPMs; learned
    dequantization is worth something."""
    entries = json.loads((RESULTS / "likelihood_table.json").read_text("utf-8"))["rows"]
    ours = {e["name"]: e["measured"]["bits_per_dim"] for e in entries if not e["quoted"]}
    assert all(0.01 < m["standard_error"] < 0.1 and m["n"] == 297 for m in ours.values()) and len(ours) == 8
    flows = [m for name, m in ours.items() if "score SDE" in name or "ScoreFlow" in name]
    sub_vp, scoreflow, dequantized = (m["mean"] for m in flows)
    assert abs(sub_vp - scoreflow) < 0.05
    (gain,) = (e["measured"]["gain"] for e in entries if "gain" in e["measured"])
    assert gain["mean"] > 3 * gain["standard_error"] and abs(scoreflow - dequantized - gain["mean"]) < 0.02
    assert all(m["mean"] > sub_vp + 0.5 for name, m in ours.items() if "DDPM" in name)


def test_the_linear_part_of_an_axis_is_marked() -> None:
    axes = Figure().subplots()
    common.symlog(axes, 0.5)
    assert axes.get_yscale() == "symlog" and [text.get_text() for text in axes.texts] == ["linear below 0.5"]
    ends = axes.transData.transform([(0, -0.5), (0, 0), (0, 0.5)])[:, 1]
    np.testing.assert_allclose(ends[1] - ends[0], ends[2] - ends[1])
    (band,) = axes.patches
    assert (band.get_y(), band.get_height()) == (-0.5, 1.0)  # type: ignore[attr-defined]
