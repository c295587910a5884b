"""Tables of levels: β, γ and its differences, respacing."""

from __future__ import annotations

import math
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import process, samplers, tables

GOLDEN = np.load(pathlib.Path(__file__).parent / "goldens" / "improved_diffusion.npz")


def alpha_bar(betas: np.ndarray) -> np.ndarray:
    return np.cumprod(1 - betas)


def test_betas_are_the_papers() -> None:
    linear = tables.linear_betas(1000)
    assert linear[0] == 1e-4 and linear[-1] == 0.02
    np.testing.assert_allclose(alpha_bar(linear)[[0, 1, 499, 999]], GOLDEN["lin1000"], rtol=1e-12)
    np.testing.assert_allclose(alpha_bar(tables.linear_betas(4000))[[0, 1, 499, 3999]], GOLDEN["lin4000"], rtol=1e-12)
    np.testing.assert_allclose(tables.cosine_betas(1000)[[0, 1, 499, 998, 999]], GOLDEN["cos1000"], rtol=1e-10)
    np.testing.assert_allclose(tables.cosine_betas(4000)[[0, 1, 499, 3998, 3999]], GOLDEN["cos4000"], rtol=1e-10)
    assert alpha_bar(linear)[-1] == pytest.approx(4.0359e-5, rel=1e-4)
    assert alpha_bar(tables.linear_betas(4000))[-1] == pytest.approx(4.2467e-5, rel=1e-4)
    assert tables.cosine_betas(4000)[0] == pytest.approx(9.86582e-6, rel=1e-5)


@pytest.mark.parametrize(
    ("step_variance", "remaining", "levels"), [(0.01, 0.01, 917), (0.02, 0.01, 456), (0.75, 0.25, 3)]
)
def test_constant_sigma_takes_the_fewest_steps(step_variance: float, remaining: float, levels: int) -> None:
    # alpha = .5 and delta = .25: alpha^2 is not below delta, so 3 steps
    betas = tables.constant_betas(step_variance, remaining)
    alpha = math.sqrt(1 - step_variance)
    assert len(betas) == levels
    assert alpha**levels < remaining <= alpha ** (levels - 1) * (1 + 1e-12)


def test_constant_sigma_in_gamma() -> None:
    gamma = tables.gammas(tables.constant_betas(0.02, 0.006))
    np.testing.assert_allclose(gamma[[0, 9, 499]], [-3.8918, -1.4966, 10.1013], atol=5e-5)


def test_gamma_does_not_overflow_or_cancel() -> None:
    betas = np.full(4000, 0.5)  # alpha_bar underflows double precision
    gamma = tables.gammas(betas)
    np.testing.assert_allclose(gamma[-1], 4000 * math.log(2), rtol=1e-12)
    tiny = np.full(3, 1e-14)
    np.testing.assert_allclose(tables.gammas(tiny), np.log([1e-14, 2e-14, 3e-14]), rtol=1e-12)


@pytest.mark.parametrize("betas", [tables.linear_betas(1000), tables.cosine_betas(4000), np.full(50, 0.3)])
def test_levels_hold_to_float32(betas: np.ndarray) -> None:
    table, bar = tables.from_betas(betas), np.exp(np.cumsum(np.log1p(-betas)))
    step = table.at(jnp.arange(len(betas)))
    np.testing.assert_allclose(step.frm.alpha, np.sqrt(bar), rtol=2e-6)
    np.testing.assert_allclose(step.frm.sigma, np.sqrt(1 - bar), rtol=2e-6)
    # the differences themselves, to float32 and not to the difference of two float32
    exact = np.diff(tables.gammas(betas))
    np.testing.assert_allclose(step.delta[1:], exact, rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(step.to.gamma[1:], table.gamma[:-1])


def test_level_zero_is_the_data() -> None:
    step = tables.from_betas(tables.linear_betas(10, 0.1, 5)).at(jnp.array([0]))
    assert step.to.alpha[0] == 1 and step.to.sigma[0] == 0 and step.delta[0] == math.inf
    x, eps = jnp.array([[0.3, -0.9]]), jnp.array([[1.1, 0.4]])
    mean, deviation = process.posterior(process.q_sample(x, eps, step.frm), eps, *step[:3])
    np.testing.assert_allclose(mean, x, rtol=1e-5)
    assert deviation[0] == 0


def test_steps_are_those_of_the_chain() -> None:
    """q(z_l | z_{l-1}) of the table has the β it was made of, and the posterior DDPM's coefficients."""
    betas = tables.cosine_betas(50)
    table, bar = tables.from_betas(betas), alpha_bar(betas)
    step = table.at(jnp.arange(1, 50))
    ratio, deviation = process.forward_coefficients(step.to, step.frm, step.delta)
    np.testing.assert_allclose(np.square(deviation), betas[1:], rtol=1e-5)
    np.testing.assert_allclose(np.square(ratio), 1 - betas[1:], rtol=1e-4)
    x, eps = 0.7, -1.3
    z = np.sqrt(bar[1:]) * x + np.sqrt(1 - bar[1:]) * eps
    mean, deviation = process.posterior(jnp.asarray(z)[:, None], jnp.full((49, 1), eps), *step[:3])
    before = bar[:-1]
    expected = (np.sqrt(before) * betas[1:] * x + np.sqrt(1 - betas[1:]) * (1 - before) * z) / (1 - bar[1:])
    np.testing.assert_allclose(mean[:, 0], expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(np.square(deviation), betas[1:] * (1 - before) / (1 - bar[1:]), rtol=1e-5)


def test_reverse_visits_every_level_once() -> None:
    table = tables.from_betas(tables.linear_betas(30))
    steps = table.reverse()
    np.testing.assert_array_equal(steps.number, np.arange(30))
    np.testing.assert_array_equal(steps.frm.t, np.arange(30)[::-1])
    np.testing.assert_array_equal(steps.frm.gamma[1:], steps.to.gamma[:-1])
    assert steps.to.gamma[-1] == -math.inf


@pytest.mark.parametrize("name", sorted(k for k in GOLDEN.files if k.startswith("space|")))
def test_respacing_index_for_index(name: str) -> None:
    _, levels, spacing = name.split("|")
    assert tables.spaced(int(levels), spacing) == GOLDEN[name].tolist()


def test_respacing_of_the_readme() -> None:
    assert tables.spaced(1000, "250")[:4] == [0, 4, 8, 12] and tables.spaced(1000, "250")[-2:] == [995, 999]
    assert tables.spaced(4000, "100")[:6] == [0, 40, 81, 121, 162, 202]


@pytest.mark.parametrize(
    ("spacing", "why"),
    [
        ("ddim300", "no integer stride"),
        ("ddim", "not of the form"),
        ("2.5", "not of the form"),
        ("0", "not of the form"),
        ("-3", "not of the form"),
        ("10,,10", "not of the form"),
        ("2000", "cannot be visited"),
        ("10,10,900,1,1", "cannot be visited"),
    ],
)
def test_impossible_respacings(spacing: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        tables.spaced(1000, spacing)


@pytest.mark.parametrize("name", ["lin", "cos", "sections"])
def test_merged_chain_has_the_levels_of_the_whole(name: str) -> None:
    levels = {"lin": 200, "cos": 4000, "sections": 1000}[name]
    whole = tables.linear_betas(levels) if name == "lin" else tables.cosine_betas(levels)
    indices = GOLDEN[f"{name}|map"]
    merged = tables.merge(whole, indices)
    np.testing.assert_allclose(merged, GOLDEN[f"{name}|betas"], rtol=1e-9)
    np.testing.assert_allclose(tables.gammas(merged), tables.gammas(whole)[indices], rtol=1e-10, atol=1e-10)


def test_betas_out_of_bounds_are_refused() -> None:
    for betas in ([0.1, 1.0], [0.0, 0.1], [0.1, np.nan], []):
        with pytest.raises(ValueError, match="between 0 and 1"):
            tables.from_betas(np.array(betas))


def test_curve_of_a_table() -> None:
    table = tables.from_betas(tables.linear_betas(25))
    steps = tables.Steps(table)
    t = jnp.array([0.0, 0.04, 0.041, 0.08, 1.0])
    np.testing.assert_array_equal(steps.gamma(t), table.gamma[jnp.array([0, 0, 1, 1, 24])])
    np.testing.assert_allclose(steps.dgamma(t)[-1], 25 * (table.gamma[-1] - table.gamma[-2]), rtol=1e-4)
    assert np.all(np.isfinite(steps.dgamma(t)))


def test_unit_variance_at_every_level() -> None:
    """Standardized data keep their variance: ᾱ + (1 − ᾱ) = 1 to float32 at every level."""
    step = tables.from_betas(tables.cosine_betas(1000)).at(jnp.arange(1000))
    np.testing.assert_allclose(np.square(step.frm.alpha) + np.square(step.frm.sigma), 1, atol=3e-7)


def test_ancestral_is_the_same_chain_as_a_continuous_grid() -> None:
    """A table whose γ lie on a line gives the transitions of that line."""
    from vdm_jax.diffusion import schedules

    schedule = schedules.linear(-4.0, 4.0)
    line = samplers.transitions(schedule, samplers.uniform_grid(8), lambda g: process.noise(g, g))
    gamma = np.linspace(-4, 4, 9)
    bar = 1 / (1 + np.exp(gamma))
    betas = np.concatenate([[1 - bar[0]], 1 - bar[1:] / bar[:-1]])
    steps = tables.from_betas(betas).reverse()
    np.testing.assert_allclose(steps.delta[:-1], line.delta, rtol=1e-5)
    np.testing.assert_allclose(steps.frm.gamma[:-1], line.frm.gamma, atol=1e-5)
    np.testing.assert_allclose(steps.to.sigma[:-1], line.to.sigma, rtol=1e-5)
