"""`evaluation.estimator='ode'` on models whose flow is known: untrained, ε̂ = z, so dz/dγ = ½ (σ − σ²) z."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.closed_forms import log_normal
from vdm_jax import methods
from vdm_jax.config import base, check, choose
from vdm_jax.diffusion import decoders, likelihood
from vdm_jax.diffusion.process import noise
from vdm_jax.keys import example_keys, normal_like
from vdm_jax.methods.vdm import RECONSTRUCTION

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in half the time
GAMMA_0, GAMMA_1, DIMENSIONS = -6.0, 4.0, 3


def method_and_batch(vocabulary, **evaluation):
    config = choose(base(), {"model.network": "mlp", "evaluation.estimator": "ode"})
    config.data.shape, config.data.vocabulary = (DIMENSIONS,), vocabulary
    config.model.update(width=8, depth=1)
    config.schedule.update(gamma_0=GAMMA_0, gamma_1=GAMMA_1)
    config.evaluation.update(**evaluation)
    check(config)
    method = methods.build(config)
    rng = np.random.default_rng(0)
    x = rng.integers(0, vocabulary, (6, DIMENSIONS)) if vocabulary else rng.standard_normal((6, DIMENSIONS))
    batch = {"x": jnp.asarray(x, jnp.int32 if vocabulary else jnp.float32), "cond": {"augmented": jnp.zeros(6)}}
    keys = example_keys(jax.random.key(1), jnp.arange(6))
    return method, method.init(jax.random.key(0)), batch, keys


@pytest.mark.slow
@pytest.mark.parametrize(("vocabulary", "kind"), [(0, "exact"), (5, "hutchinson")])
def test_bound_of_a_known_flow(vocabulary, kind):
    """log p(z_0) = log N(g z_0; 0, I) + D ln g with g from quadrature; every term in bits/dim."""
    method, params, batch, keys = method_and_batch(vocabulary, divergence=kind)
    terms = jit(method.bits_per_dim)(params, batch, keys)
    assert set(terms) == {"encoder", "flow", "reconstruction", "total", "evaluations"}
    bits = 1 / (DIMENSIONS * np.log(2))

    eps = np.asarray(normal_like(keys, (DIMENSIONS,), RECONSTRUCTION), np.float64)
    f = np.asarray(decoders.encode(batch["x"], vocabulary or None), np.float64)
    alpha, sigma = 1 / np.sqrt(1 + np.exp(GAMMA_0)), 1 / np.sqrt(1 + np.exp(-GAMMA_0))
    z_0 = alpha * f + sigma * eps
    gammas = np.linspace(GAMMA_0, GAMMA_1, 10_001)
    s = 1 / np.sqrt(1 + np.exp(-gammas))
    growth = np.trapezoid(0.5 * (s - s**2), gammas)
    log_p = log_normal(np.exp(growth) * z_0, 1.0) + DIMENSIONS * growth
    np.testing.assert_allclose(terms["flow"], -log_p * bits, rtol=1e-4)
    np.testing.assert_allclose(terms["encoder"], log_normal(sigma * eps, sigma**2) * bits, rtol=1e-4)
    level = noise(jnp.float32(GAMMA_0), jnp.float32(0))
    decoder = decoders.log_prob(batch["x"], jnp.asarray(z_0, jnp.float32), level, vocabulary or None)
    np.testing.assert_allclose(terms["reconstruction"], -decoder * bits, rtol=1e-3, atol=1e-4)
    parts = terms["encoder"] + terms["flow"] + terms["reconstruction"]
    np.testing.assert_allclose(terms["total"], parts, rtol=1e-6)
    assert np.all(terms["evaluations"] > 10)


@pytest.mark.slow
def test_values_do_not_depend_on_the_batch():
    method, params, batch, keys = method_and_batch(5)
    run = jit(method.bits_per_dim)
    whole, part = run(params, batch, keys), run(params, jax.tree.map(lambda a: a[2:4], batch), keys[2:4])
    for name, value in part.items():
        np.testing.assert_allclose(value, whole[name][2:4], rtol=1e-5)


@pytest.mark.slow
def test_tolerance_of_the_config_reaches_the_solver():
    coarse, fine = (method_and_batch(0, tolerance=tolerance) for tolerance in (1e-2, 1e-5))
    count = lambda m: jit(m[0].bits_per_dim)(*m[1:])["evaluations"]
    assert np.all(count(coarse) < count(fine))


def test_auto_is_exact_for_few_dimensions():
    of = likelihood.divergence_of
    assert of("auto", 2) is of("exact", 10_000) is likelihood.exact_divergence
    assert of("auto", 3072) is of("hutchinson", 2) is likelihood.hutchinson_divergence
