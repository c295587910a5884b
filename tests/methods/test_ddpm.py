"""DDPM and Improved DDPM as a method: closed forms with exact denoisers, objectives, importance, samplers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import methods
from vdm_jax.config import base, check, choose
from vdm_jax.core import chain as chains
from vdm_jax.core.method import Context
from vdm_jax.diffusion import tables, times
from vdm_jax.gaussian.discrete import GROUPS, Discrete, grouping
from vdm_jax.keys import example_keys
from vdm_jax.methods import ddpm

S2 = 1 / 3  # variance of the data
D = 6


def settings(**changes: Any) -> ConfigDict:
    """Points of D dimensions, T = 50 levels."""
    parts = {
        "method": "ddpm",
        "model.network": "mlp",
        "schedule.kind": "ddpm_linear",
        "training.weighting": "simple",
    }
    config = choose(base(), parts)
    config.data.shape, config.data.vocabulary = (D,), 0
    config.model.width, config.model.depth = 16, 1
    config.schedule.num_timesteps = config.sampling.num_steps = 50
    choose(config, {name.replace("__", "."): value for name, value in changes.items()})
    check(config)
    return config


class Exact:
    """ε̂ of x ~ N(0, s² I), told ℓ/T: σ z/(α² s² + σ²), as a network; with a head of ones if learned."""

    def __init__(self, betas: np.ndarray, learned: bool = False) -> None:
        self.bar, self.learned = np.cumprod(1 - betas), learned

    def apply(self, _: Any, z: Array, t: Array, *__: Any) -> Array:
        bar = jnp.asarray(self.bar, z.dtype)[jnp.round(t * len(self.bar)).astype(int) - 1]
        factor = jnp.sqrt(1 - bar) / (bar * S2 + 1 - bar)
        eps = factor.reshape(-1, *(1,) * (z.ndim - 1)) * z
        return jnp.concatenate([eps, jnp.ones_like(z)], -1) if self.learned else eps


def exact(config: ConfigDict, learned: bool = False) -> Discrete:
    made = ddpm.model(config)
    net = Exact(made.betas, learned)
    return replace(made, network=lambda params, keys, z, level, cond: net.apply(params, z, level.t))


def keys_for(count: int, seed: int = 0) -> Array:
    return example_keys(jax.random.key(seed), jnp.arange(count))


def batch_of(count: int, seed: int = 1) -> dict[str, Array]:
    x = math.sqrt(S2) * jax.random.normal(jax.random.key(seed), (count, D))
    return {"x": x, "cond": {"augmented": jnp.zeros(count)}}


def closed_form(betas: np.ndarray) -> dict[str, float]:
    """E of the bound's terms in bits/dim, Σ = β̃ and at the last step β̃_2."""
    bar = np.cumprod(1 - betas)
    error = bar * S2 / (bar * S2 + 1 - bar)
    gamma = np.log((1 - bar) / bar)
    diffusion = 0.5 * np.sum(np.expm1(np.diff(gamma)) * error[1:])
    floor = betas[1] * (1 - bar[0]) / (1 - bar[1])
    # x̂ = (z − σ ε̂)/α misses x by σ/α (ε − ε̂)
    square = (1 - bar[0]) / bar[0] * error[0]
    reconstruction = 0.5 * (square / floor + np.log(2 * np.pi * floor))
    prior = 0.5 * (bar[-1] * S2 + (1 - bar[-1]) - 1 - np.log(1 - bar[-1]))
    nats = {"reconstruction": reconstruction, "diffusion": diffusion, "prior": prior}
    return {k: v / math.log(2) for k, v in nats.items()}


@pytest.mark.parametrize("levels", [0, 8])
def test_bound_of_gaussian_data_is_its_closed_form(levels: int) -> None:
    config = settings(evaluation__levels=levels)
    model, count = exact(config), 6000
    terms = jax.jit(model.bits_per_dim)({"network": {}}, batch_of(count), keys_for(count))
    for name, value in closed_form(ddpm.betas_of(config)).items():
        found = np.asarray(terms[name], np.float64)
        assert abs(found.mean() - value) < 4 * found.std() / math.sqrt(count) + 1e-5, name
    np.testing.assert_allclose(
        terms["total"], sum(terms[k] for k in ("reconstruction", "diffusion", "prior")), rtol=1e-5
    )


@pytest.mark.slow
def test_terms_by_level_are_the_terms() -> None:
    model = exact(settings())
    terms = model.bits_per_dim({"network": {}}, batch_of(3), keys_for(3))
    assert terms["t"].shape == (3, 50) and terms["t"][0, -1] == 1
    whole = jnp.sum(terms["at_t"], axis=1) / 50
    np.testing.assert_allclose(whole, terms["diffusion"] + terms["reconstruction"], rtol=1e-4)
    np.testing.assert_allclose(terms["t"][0], (np.arange(50) + 1) / 50, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 7, 99, 100, 101, 640, 4000])
def test_groups_average_neighbors_and_lose_none(count: int) -> None:
    mean = grouping(count)
    assert len(mean) <= GROUPS
    np.testing.assert_allclose(mean.sum(1), 1)
    sizes = (mean > 0).sum(1)
    assert sizes.sum() == count and np.all((mean > 0).sum(0) == 1)
    places = mean @ np.arange(count)
    assert np.all(np.diff(places) > 0)


def test_drawn_levels_stand_for_all_of_them() -> None:
    """Σ of weights times f(ℓ) is Σ_ℓ f(ℓ) on average, and level 1 is always there."""
    model = exact(settings(evaluation__levels=5))
    indices, weights = model.levels(keys_for(20_000))
    f = np.exp(-np.arange(50) / 10)
    estimates = weights @ f[np.asarray(indices)]
    assert np.all(np.asarray(indices)[0] == 0) and np.asarray(indices)[1:].min() == 1
    assert np.asarray(indices).max() == 49
    assert abs(estimates.mean() - f.sum()) < 4 * estimates.std() / math.sqrt(20_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variance", "sampler"), [("posterior", "ancestral"), ("beta", "ancestral"), ("posterior", "ddim")]
)
def test_samples_of_gaussian_data_have_its_variance(variance: str, sampler: str) -> None:
    """1,000 levels: the reverse chain of the exact denoiser ends in N(0, s²) up to O(1/T)."""
    config = settings(
        schedule__num_timesteps=1000, sampling__num_steps=1000, model__variance=variance, sampling__sampler=sampler
    )
    run = jax.jit(chains.sampler(exact(config).chain), static_argnums=3)
    x, _ = run({"network": {}}, keys_for(3000), {}, 1000)
    assert abs(float(np.var(x)) / S2 - 1) < 0.02 + 4 * math.sqrt(2 / (3000 * D))


def test_few_steps_have_the_variance_of_their_closed_form() -> None:
    """20 of 1,000 levels: var z_s = (∂z_s/∂z_t)² var z_t + noise², step by step."""
    config = settings(schedule__num_timesteps=1000, sampling__num_steps=20)
    for sampler in ("ancestral", "ddim"):
        choose(config, {"sampling.sampler": sampler})
        x, _ = chains.sampler(exact(config).chain)({"network": {}}, keys_for(4000), {}, 20)
        bar = np.cumprod(1 - ddpm.betas_of(config))[tables.spaced(1000, "20")]
        variance = 1.0
        for level in range(19, -1, -1):
            now, before = bar[level], bar[level - 1] if level else 1.0
            eps = np.sqrt(1 - now) / (now * S2 + 1 - now)  # ε̂ = eps z
            x_hat = (1 - np.sqrt(1 - now) * eps) / np.sqrt(now)
            noise = (1 - before) / (1 - now) * (1 - now / before) if sampler == "ancestral" else 0.0
            slope = np.sqrt(before) * x_hat + np.sqrt(1 - before - noise) * eps
            variance = slope**2 * variance + noise
        assert abs(float(np.var(x)) / variance - 1) < 4 * math.sqrt(2 / (4000 * D)), sampler


@pytest.mark.slow
def test_the_bound_trains_the_variance_alone_in_hybrid() -> None:
    config = settings()
    choose(config, {"model.network": "multiscale", "model.variance": "learned", "training.weighting": "hybrid"})
    raw = {"network": {"raw": jax.random.normal(jax.random.key(5), (4, 2 * D))}}
    context = Context(keys_for(4), jax.random.key(2), jnp.arange(4), 4)

    def gradient(weighting: str) -> Array:
        config.training.weighting = weighting
        model = replace(ddpm.model(config), network=lambda params, keys, z, level, cond: params["network"]["raw"])
        total = lambda p: jnp.sum(model.loss(p, (), batch_of(4), context)[0])
        return jax.grad(total)(raw)["network"]["raw"]

    simple, hybrid, vlb = (gradient(w) for w in ("simple", "hybrid", "vlb"))
    np.testing.assert_allclose(hybrid[:, :D], simple[:, :D], rtol=1e-5)
    assert not np.any(simple[:, D:])
    np.testing.assert_allclose(hybrid[:, D:], config.training.vlb_weight * vlb[:, D:], rtol=1e-4, atol=1e-9)
    assert np.all(np.abs(vlb[:, D:]) > 0)


@pytest.mark.slow
def test_importance_gives_the_same_loss_with_less_variance() -> None:
    """With a history of the true losses, E is that of uniform levels and Var is smaller (linear β, exact ε̂)."""
    config = settings(training__weighting="vlb", training__times="importance")
    model, count = exact(config), 40_000
    context = Context(keys_for(count), jax.random.key(3), jnp.arange(count), count)
    flat = times.no_history(50)
    run = jax.jit(lambda history: model.loss({"network": {}}, history, batch_of(count), context))
    uniform, aux = run(flat)
    index = np.round(np.asarray(aux["t"]) * 50).astype(int) - 1
    means = np.array([np.asarray(aux["diffusion"])[index == k].mean() for k in range(50)])
    informed = times.History(jnp.asarray(np.repeat(means[:, None], 10, 1), jnp.float32), jnp.full(50, 10))
    weighted, _ = run(informed)
    a, b = np.asarray(uniform, np.float64), np.asarray(weighted, np.float64)
    assert abs(a.mean() - b.mean()) < 4 * math.hypot(a.std(), b.std()) / math.sqrt(count)
    assert b.std() < 0.5 * a.std()


@pytest.mark.slow
def test_history_is_of_the_levels_that_were_drawn() -> None:
    config = settings(training__weighting="vlb", training__times="importance")
    model = exact(config)
    context = Context(keys_for(8), jax.random.key(3), jnp.arange(8), 8)
    _, aux = model.loss({"network": {}}, model.init_history(), batch_of(8), context)
    history = model.update_history(model.init_history(), aux)
    index, _ = model.draw(model.init_history(), context)
    np.testing.assert_array_equal(history.counts, np.bincount(index, minlength=50))
    np.testing.assert_allclose(history.losses[index[0], 0], aux["diffusion"][0], rtol=1e-6)


def test_stratified_levels_cover_all_of_them_evenly() -> None:
    model = exact(settings())
    context = Context(keys_for(100), jax.random.key(3), jnp.arange(100), 100)
    index, weight = model.draw((), context)
    np.testing.assert_array_equal(np.bincount(index, minlength=50), np.full(50, 2))
    np.testing.assert_array_equal(weight, np.ones(100))


@pytest.mark.slow
def test_images_end_as_levels_and_the_last_step_has_no_noise() -> None:
    config = settings(data__vocabulary=17)
    x, _ = chains.sampler(exact(config).chain)({"network": {}}, keys_for(5), {}, 50)
    assert x.dtype == jnp.int32 and x.min() >= 0 and x.max() <= 16


def test_networks_are_told_what_the_originals_were() -> None:
    from vdm_jax.gaussian import networks

    config = settings()
    np.testing.assert_allclose(networks.time_input(config, 4), [0.25, 0.5, 0.75, 1])
    choose(config, {"model.network": "multiscale"})
    np.testing.assert_array_equal(networks.time_input(config, 4), [0, 1, 2, 3])
    config.model.rescale_time = True
    np.testing.assert_array_equal(networks.time_input(config, 4), [0, 250, 500, 750])


@pytest.mark.slow
def test_a_method_is_built_from_a_config() -> None:
    method = methods.build(settings(training__weighting="vlb", training__times="importance"))
    params = method.init(jax.random.key(0))
    assert set(params) == {"network"} and method.init_extra(params).losses.shape == (50, 10)
    curve = method.schedule(params)
    assert float(curve.gamma(jnp.array(1.0))) > float(curve.gamma(jnp.array(0.0)))
