"""Rectified flow as a method, on a network that is the exact velocity of Gaussian data."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vdm_jax.config import base, check, choose
from vdm_jax.core.chain import run
from vdm_jax.core.method import Context
from vdm_jax.diffusion import rectified_flow
from vdm_jax.diffusion.process import expand
from vdm_jax.errors import UserError
from vdm_jax.gaussian.continuous import Continuous
from vdm_jax.keys import example_keys
from vdm_jax.methods import flow_matching

S2, D = 0.3, 4


def settings(**changes: Any) -> ConfigDict:
    """Points of D dimensions."""
    parts = {
        "method": "flow_matching",
        "model.network": "mlp",
        "model.prediction": "velocity",
        "schedule.kind": "rectified_flow",
        "sampling.sampler": "heun",
        "data.shape": (D,),
        "data.vocabulary": 0,
        "schedule.t_min": 0.02,
        "schedule.t_max": 0.98,
    }
    config = choose(base(), parts | {name.replace("__", "."): value for name, value in changes.items()})
    check(config)
    return config


def exact(config: ConfigDict) -> Continuous:
    """û = E[ε − x | z] of x ~ N(0, s² I): (σ − α s²) z/(α² s² + σ²)."""

    def network(params: Any, keys: Any, z: jax.Array, level: Any, cond: Any) -> jax.Array:
        total = level.alpha**2 * S2 + level.sigma**2
        return expand((level.sigma - level.alpha * S2) / total, z.ndim) * z

    return dataclasses.replace(flow_matching.model(config), network=network)


def context_of(count: int) -> Context:
    index = jnp.arange(count)
    return Context(example_keys(jax.random.key(3), index), jax.random.key(4), index, count)


def batch_of(count: int) -> dict[str, Any]:
    x = math.sqrt(S2) * jax.random.normal(jax.random.key(0), (count, D))
    return {"x": x, "cond": {"augmented": jnp.zeros(count)}}


@pytest.mark.parametrize("times", ["stratified", "independent", "logit_normal"])
def test_the_loss_is_the_error_of_the_velocity(times: str) -> None:
    """E‖û − u‖²/D at t is Var(ε − x | z) = s²/(α² s² + σ²), over the t that are drawn."""
    config, count = settings(training__times=times), 20_000
    model = exact(config)
    loss, aux = jax.jit(lambda b: model.loss({"network": {}}, (), b, context_of(count)))(batch_of(count))
    draw = model.draw(model.schedule({}), context_of(count))
    t = np.asarray(rectified_flow.FLOW.sigma(draw.gamma), np.float64)
    expected = S2 / ((1 - t) ** 2 * S2 + t**2)
    found = np.asarray(loss, np.float64)
    assert abs((found - expected).mean()) < 4 * (found - expected).std() / math.sqrt(count)
    np.testing.assert_allclose(found, aux["error"] / (1 - t) ** 2, rtol=1e-3)


@pytest.mark.parametrize("times", ["stratified", "logit_normal"])
def test_training_s_estimate_of_the_bound_is_right_however_t_is_drawn(times: str) -> None:
    """Its mean is that of the bound at uniform γ, which is ½ ∫ m dγ, m = sigmoid(log s² − γ), in nats a dimension."""
    config, count = settings(training__times=times, schedule__t_min=0.05, schedule__t_max=0.95), 60_000
    model = exact(config)
    _, aux = jax.jit(lambda b: model.loss({"network": {}}, (), b, context_of(count)))(batch_of(count))
    low, high = (float(g) for g in (model.schedule({}).gamma_0, model.schedule({}).gamma_1))
    softplus = lambda a: np.logaddexp(0, a)
    nats = 0.5 * (softplus(math.log(S2) - low) - softplus(math.log(S2) - high))
    found = np.asarray(aux["diffusion"], np.float64) * math.log(2)
    assert abs(found.mean() - nats) < 4 * found.std() / math.sqrt(count) + 0.01 * nats


@pytest.mark.slow
@pytest.mark.parametrize("times", ["stratified", "independent", "logit_normal"])
def test_losses_are_reported_with_the_t_of_the_flow_and_networks_are_told_it_in_their_units(times: str) -> None:
    images = {"data__shape": (4, 4, 1), "model__network": "multiscale", "model__attention_at": (4,)}
    small = {"model__multipliers": (1.0,), "model__width": 8, "model__groups": 4}
    for units, changes in ((1, {}), (1000, images | small)):
        model = flow_matching.model(settings(training__times=times, **changes))
        schedule, keys = model.schedule({}), context_of(400).keys
        for draw in (model.draw(schedule, context_of(400)), model.draw_evaluation(schedule, keys)):
            t = np.asarray(draw.t, np.float64)
            assert t.min() > 0.02 - 1e-6 and t.max() < 0.98 + 1e-6 and t.max() - t.min() > 0.5
            np.testing.assert_allclose(draw.gamma, 2 * np.log(t / (1 - t)), rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(model.level_of(draw.gamma).t, units * t, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["euler", "heun", "ddim"])
def test_samples_have_the_variance_of_the_flow(sampler: str) -> None:
    """z_0 = z_1 √(Var z_0/Var z_1): the latents of pure noise come out with the data's variance at t_min."""
    model = exact(settings(sampling__sampler=sampler))
    keys = example_keys(jax.random.key(1), jnp.arange(3))
    chain = model.chain({"network": {}}, {}, 200)
    z_1 = chain.start(keys)
    x, _ = run(chain, keys)
    variance = lambda level: level.alpha**2 * S2 + level.sigma**2
    first = jax.tree.map(lambda a: a[0], chain.steps.frm)
    last = jax.tree.map(lambda a: a[-1], chain.steps.to)
    expected = z_1 * jnp.sqrt(variance(last) / variance(first)) / last.alpha
    np.testing.assert_allclose(x, expected, rtol=2e-2)


def test_a_config_of_the_page_is_refused_what_belongs_to_others() -> None:
    with pytest.raises(
        UserError, match=r"schedule\.gamma_0: config\.schedule\.kind='rectified_flow' has no such field"
    ):
        settings(schedule__gamma_0=-10.0)
    with pytest.raises(
        UserError, match=r"training\.logit_mean: config\.training\.times='stratified' has no such field"
    ):
        settings(training__logit_mean=0.5)
