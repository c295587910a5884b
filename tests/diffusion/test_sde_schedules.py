"""γ of the score SDEs against α, σ, drift and diffusion as the paper states them, in float64 by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import sde_schedules, tables
from vdm_jax.diffusion.process import SUB_VP, VE, VP

BETA_MIN, BETA_MAX, SIGMA_MIN, SIGMA_MAX = 0.1, 20.0, 0.01, 50.0
PROCESSES = {"vp": VP, "sub_vp": SUB_VP, "ve": VE}
KINDS = sorted(PROCESSES)
T_MIN = 1e-5


def schedule_of(kind, t_min=T_MIN):
    return getattr(sde_schedules, kind)(t_min=t_min)


def beta(t):
    return BETA_MIN + t * (BETA_MAX - BETA_MIN)


def integral(t):
    return BETA_MIN * t + 0.5 * (BETA_MAX - BETA_MIN) * t**2


def alpha_sigma(kind, t):
    """The paper's marginals (eq. 29), float64."""
    if kind == "ve":
        return np.ones_like(t), SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** t
    rest = -np.expm1(-integral(t))
    return np.exp(-0.5 * integral(t)), rest if kind == "sub_vp" else np.sqrt(rest)


def diffusion(kind, t):
    """g(t)² of the paper."""
    if kind == "ve":
        return alpha_sigma(kind, t)[1] ** 2 * 2 * np.log(SIGMA_MAX / SIGMA_MIN)
    return beta(t) if kind == "vp" else beta(t) * -np.expm1(-2 * integral(t))


def exact_gamma(kind, t):
    alpha, sigma = alpha_sigma(kind, t)
    return 2 * np.log(sigma / alpha)


def exact_rise(kind, t, s):
    """γ(t) − γ(s) in long double, from B(t) − B(s) by its factor t − s."""
    if kind == "ve":
        return 2 * (t - s) * np.log(SIGMA_MAX / SIGMA_MIN)
    t, s = t.astype(np.longdouble), s.astype(np.longdouble)
    b = (t - s) * (BETA_MIN + (BETA_MAX - BETA_MIN) * (t + s) / 2)
    power = {"vp": 1, "sub_vp": 2}[kind]
    return (b + power * np.log1p(-np.expm1(-b) / np.expm1(integral(s)))).astype(np.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t_min", [1e-5, 1e-3, 0.1])
def test_endpoints_are_those_of_the_sde_exactly_in_float32(kind, t_min):
    schedule = schedule_of(kind, t_min)
    ends = np.stack([schedule.gamma_0, schedule.gamma_1])
    np.testing.assert_array_equal(ends, exact_gamma(kind, np.array([t_min, 1.0])).astype(np.float32))
    np.testing.assert_array_equal(jax.jit(schedule.gamma)(jnp.array([0.0, 1.0])), ends)
    single = jax.jit(lambda: (schedule.gamma(jnp.zeros(())), schedule.gamma(jnp.ones(()))))()
    np.testing.assert_array_equal(np.stack(single), ends)


@pytest.mark.parametrize("kind", KINDS)
def test_levels_in_float32_are_the_paper_s(kind):
    """α, σ and γ from γ(t) in float32; γ spans 24 to 38, so its last bits are 1e-6 of σ."""
    s = np.concatenate([np.logspace(-6, -0.5, 200), np.linspace(0, 1, 101)]).astype(np.float32)
    t = T_MIN + (1 - T_MIN) * s.astype(np.float64)
    gamma = jax.jit(schedule_of(kind).gamma)(s)
    alpha, sigma = alpha_sigma(kind, t)
    np.testing.assert_allclose(gamma, exact_gamma(kind, t), atol=6e-6)
    np.testing.assert_allclose(PROCESSES[kind].alpha(gamma), alpha, rtol=6e-6)
    np.testing.assert_allclose(PROCESSES[kind].sigma(gamma), sigma, rtol=6e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_steps", [10, 1000, 10**5])
def test_float32_delta_does_not_cancel(kind, num_steps):
    i = np.unique(np.linspace(1, num_steps, 500).astype(np.int64))
    s, ds = (i / num_steps).astype(np.float32), np.float32(1 / num_steps)
    s = np.maximum(s, ds)
    delta = jax.jit(schedule_of(kind).delta)(s, ds)
    below = T_MIN + (1 - T_MIN) * (s - ds).astype(np.float64)  # s − ds as the float32 numbers have it
    wanted = exact_rise(kind, below + (1 - T_MIN) * float(ds), below)
    assert delta.dtype == jnp.float32
    np.testing.assert_allclose(delta, wanted, rtol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_drift_and_diffusion_are_the_paper_s(kind, x64):
    """d log α/dt = −½ β and σ² dγ/dt = g², and γ′ is the derivative of γ."""
    schedule, process = schedule_of(kind), PROCESSES[kind]
    s = jnp.linspace(0.001, 1, 200)
    t = np.asarray(T_MIN + (1 - T_MIN) * s)
    gamma, dgamma = schedule.gamma(s), schedule.dgamma(s) / (1 - T_MIN)
    drift = 0 * t if kind == "ve" else -0.5 * beta(t)
    np.testing.assert_allclose(process.dlog_alpha(gamma) * dgamma, drift, rtol=1e-9)
    np.testing.assert_allclose(process.sigma(gamma) ** 2 * dgamma, diffusion(kind, t), rtol=1e-9)
    np.testing.assert_allclose(schedule.dgamma(s), jax.vmap(jax.grad(schedule.gamma))(s), rtol=1e-9)


@pytest.mark.parametrize("kind", ["vp", "sub_vp"])
def test_time_of_a_level_inverts_gamma(kind):
    schedule = schedule_of(kind)
    s = np.linspace(0, 1, 1001).astype(np.float32)
    t = schedule.shape.sde_time(s)
    np.testing.assert_allclose(jax.jit(lambda s: schedule.shape.time_of(schedule.gamma(s)))(s), t, rtol=1e-5)


def test_vp_is_the_limit_of_ddpm_s_table():
    """β_ℓ = β(t)/N with N → ∞: γ of 10⁵ steps of the chain against the SDE's at the same t."""
    steps = 100_000
    t = (np.arange(steps) + 1) / steps
    chain = tables.gammas(tables.linear_betas(steps, BETA_MIN, BETA_MAX))
    late = t > 0.01
    np.testing.assert_allclose(chain[late], exact_gamma("vp", t)[late], atol=2e-3)
