"""Rectified flow as a Gaussian diffusion: its process, its times, its steps, and its density against VP's."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from scipy.stats import norm, truncnorm

from vdm_jax.diffusion import likelihood, prediction, rectified_flow, samplers, schedules
from vdm_jax.diffusion.prediction import Prediction
from vdm_jax.diffusion.process import VP, Noise, noise
from vdm_jax.diffusion.rectified_flow import FLOW

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
S2 = 0.3  # variance of the data


def level_of(gamma: Array) -> Noise:
    return noise(gamma, FLOW.sigma(gamma), FLOW)


def exact(process: Any) -> Any:
    """The denoiser of x ~ N(0, s² I): x̂ = α s² z/(α² s² + σ²)."""

    def predict(z: Array, level: Noise, *_: Any) -> Prediction:
        alpha, sigma = (jnp.reshape(a, a.shape + (1,) * (z.ndim - a.ndim)) for a in (level.alpha, level.sigma))
        total = alpha**2 * S2 + sigma**2
        return Prediction(alpha * S2 * z / total, sigma * z / total)

    return predict


def test_the_process_is_the_straight_line_between_data_and_noise() -> None:
    t = np.linspace(0.001, 0.999, 999)
    gamma = jnp.asarray(2 * np.log(t / (1 - t)), jnp.float32)
    np.testing.assert_allclose(FLOW.sigma(gamma), t, rtol=2e-6)
    np.testing.assert_allclose(FLOW.alpha(gamma), 1 - t, rtol=2e-6)
    slope = jax.vmap(jax.grad(lambda g: jnp.log(FLOW.alpha(g))))(gamma)
    np.testing.assert_allclose(FLOW.dlog_alpha(gamma), slope, rtol=5e-5)  # of autodiff's rounding
    np.testing.assert_allclose(FLOW.prior_variance(gamma), t**2 + (1 - t) ** 2, rtol=1e-5)


@pytest.mark.slow
def test_the_schedule_is_uniform_in_t_and_exact_at_its_cut_ends() -> None:
    schedule = rectified_flow.schedule(0.02, 0.97)
    assert schedule.gamma(jnp.zeros(())) == schedule.gamma_0 and schedule.gamma(jnp.ones(())) == schedule.gamma_1
    s = jnp.linspace(0, 1, 101)
    np.testing.assert_allclose(FLOW.sigma(schedule.gamma(s)), 0.02 + 0.95 * s, rtol=3e-6)
    slope = jax.vmap(jax.grad(schedule.gamma))(s[1:-1])
    np.testing.assert_allclose(schedule.dgamma(s[1:-1]), slope, rtol=1e-3)
    for count in (10, 1000, 100_000):
        t = np.float64(0.5) + 1 / count
        before, now = (2 * np.log(u / (1 - u)) for u in (0.02 + 0.95 * 0.5, 0.02 + 0.95 * t))
        found = schedule.delta(jnp.asarray(t, jnp.float32), jnp.asarray(1 / count, jnp.float32))
        np.testing.assert_allclose(found, now - before, rtol=1e-5)


def test_the_error_of_a_velocity_is_that_of_v_over_s() -> None:
    """û − u = (v̂ − v)/s at the VP latent z/s of the same SNR, for any prediction x̂."""
    keys = jax.random.split(jax.random.key(0), 3)
    x, eps, wrong = (jax.random.normal(k, (50, 4)) for k in keys)
    gamma = jnp.linspace(-6, 6, 50)
    level, plain, s = level_of(gamma), noise(gamma, gamma, VP), rectified_flow.scale(gamma)[:, None]
    z = level.alpha[:, None] * x + level.sigma[:, None] * eps
    hat = prediction.eps_from_x(z, wrong, level)
    velocity = (hat - wrong) - (eps - x)
    in_vp = z / s
    np.testing.assert_allclose(in_vp, plain.alpha[:, None] * x + plain.sigma[:, None] * eps, rtol=1e-4, atol=1e-5)
    v, v_hat = (prediction.v_from(a, prediction.eps_from_x(in_vp, a, plain), plain) for a in (x, wrong))
    np.testing.assert_allclose(velocity, (v_hat - v) / s, rtol=2e-3, atol=2e-4)


def test_the_velocity_target_is_split_into_x_and_eps() -> None:
    x, eps = (jax.random.normal(k, (20, 3)) for k in jax.random.split(jax.random.key(1)))
    level = level_of(jnp.linspace(-8, 8, 20))
    z = level.alpha[:, None] * x + level.sigma[:, None] * eps
    found = prediction.split(eps - x, z, level, "velocity")
    np.testing.assert_allclose(found.x, x, atol=2e-6)
    np.testing.assert_allclose(found.eps, eps, atol=2e-6)


def test_logit_normal_times_are_normal_levels() -> None:
    """t = sigmoid(m + s n) ⇔ γ ~ N(2m, 4s²): quantiles, and the density; truncated, both are scipy's truncnorm."""
    mean, deviation = -0.4, 1.3
    u = jnp.asarray([0.01, 0.25, 0.5, 0.9, 0.999])
    whole = mean, deviation, jnp.asarray(-50.0), jnp.asarray(50.0)
    found = rectified_flow.logit_normal(u, *whole)
    np.testing.assert_allclose(found, norm.ppf(u, 2 * mean, 2 * deviation), rtol=1e-4)
    t = FLOW.sigma(found)
    np.testing.assert_allclose(np.log(t / (1 - t)), norm.ppf(u, mean, deviation), rtol=1e-4)
    gamma = np.linspace(-12, 12, 101)
    density = rectified_flow.logit_normal_density(jnp.asarray(gamma), *whole)
    np.testing.assert_allclose(density, norm.pdf(gamma, 2 * mean, 2 * deviation), rtol=1e-3, atol=1e-9)
    ends = -3.0, 4.0
    law = truncnorm(*((end - 2 * mean) / (2 * deviation) for end in ends), 2 * mean, 2 * deviation)
    cut = mean, deviation, *map(jnp.asarray, ends)
    np.testing.assert_allclose(rectified_flow.logit_normal(u, *cut), law.ppf(u), rtol=1e-4)
    inside = np.linspace(-2.9, 3.9, 50)
    np.testing.assert_allclose(
        rectified_flow.logit_normal_density(jnp.asarray(inside), *cut), law.pdf(inside), rtol=1e-4
    )


@pytest.mark.parametrize("num_steps", [3, 50])
def test_euler_in_its_own_coordinates_is_ddim(num_steps: int) -> None:
    """On the same grid, to rounding, for any denoiser."""
    steps = samplers.transitions(rectified_flow.schedule(), samplers.uniform_grid(num_steps), level_of)
    predict = lambda z, level: Prediction(x := jnp.tanh(z - level.gamma), prediction.eps_from_x(z, x, level))
    z, keys = jax.random.normal(jax.random.key(2), (5, 4)), jax.random.split(jax.random.key(3), 5)
    ends = [samplers.run(rule(predict), z, keys, steps)[0] for rule in (rectified_flow.euler, samplers.ddim)]
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_heun_is_of_second_order_and_euler_of_first() -> None:
    """The flow of N(0, s²) is z_0 = z_1 √(Var z_0/Var z_1)."""
    schedule = rectified_flow.schedule(0.01, 0.99)
    predict = exact(FLOW)
    z, keys = jnp.ones((1, 1)), jax.random.split(jax.random.key(0), 1)
    first, last = (level_of(g) for g in (schedule.gamma_0, schedule.gamma_1))
    variance = lambda level: float(level.alpha**2 * S2 + level.sigma**2)
    target = math.sqrt(variance(first) / variance(last))
    errors: dict[str, list[float]] = {"euler": [], "heun": []}
    for count in (8, 16, 32):
        steps = samplers.transitions(schedule, samplers.uniform_grid(count), level_of)
        for name, rule in (("euler", rectified_flow.euler), ("heun", rectified_flow.heun)):
            end, _ = samplers.run(rule(predict), z, keys, steps)
            errors[name].append(abs(float(end[0, 0]) - target))
    for name, order in (("euler", 1), ("heun", 2)):
        rates = np.log2(np.divide(errors[name][:-1], errors[name][1:]))
        assert np.all(np.abs(rates - order) < 0.35), (name, rates)


@pytest.mark.slow
def test_its_flow_s_density_agrees_with_vp_s() -> None:
    """log p_FLOW(s(t_0) z) = log p_VP(z) − D log s(t_0) for the exact denoiser, priors N(0, s(t_1)² I) and N(0, I)."""
    schedule = rectified_flow.schedule(0.01, 0.99)
    ends = schedule.gamma_0, schedule.gamma_1
    z = jax.random.normal(jax.random.key(4), (6, 3))
    s_0 = float(rectified_flow.scale(schedule.gamma_0))
    keys = jax.random.split(jax.random.key(5), 6)
    densities = []
    for process, scale in ((VP, 1.0), (FLOW, s_0)):
        levels = lambda gamma, process=process: noise(gamma, gamma, process)
        ode = likelihood.ODE(exact(process), levels, *ends, process, 1e-5)
        densities.append(np.asarray(jit(lambda z_0, ode=ode: likelihood.log_prob(ode, z_0, {}, keys)[0])(scale * z)))
    np.testing.assert_allclose(densities[1], densities[0] - 3 * math.log(s_0), atol=2e-3)


def test_schedules_of_the_same_ends_have_the_same_span() -> None:
    made = rectified_flow.schedule(0.1, 0.8)
    line = schedules.linear(made.gamma_0, made.gamma_1)
    np.testing.assert_allclose(
        jnp.trapezoid(made.dgamma(jnp.linspace(0, 1, 4001)), dx=1 / 4000), line.dgamma(0.5), rtol=1e-4
    )
