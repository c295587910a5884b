"""What networks that were trained on levels are told: score_sde's labels, computed here as its code does, in numpy."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vdm_jax.config import base, check, choose
from vdm_jax.errors import UserError
from vdm_jax.gaussian import networks
from vdm_jax.gaussian.continuous import Continuous
from vdm_jax.gaussian.score_levels import ScoreLevels
from vdm_jax.methods import sde

N, SIGMA_MIN, SIGMA_MAX = 1000, 0.01, 50.0


def make(kind: str, **changes: Any) -> ConfigDict:
    """Byte images of 4 × 4 pixels; changes: 'section.field' with two underscores for the dot."""
    parts = {"method": "sde", "schedule.kind": kind, "model.network": "multiscale", "model.family": "ncsnpp"}
    config = choose(
        base(), {**parts, "model.time_input": "index", "schedule.t_min": 1e-3 if kind == "vp_sde" else 1e-5}
    )
    config.data.update(shape=(4, 4, 1), vocabulary=256)
    config.model.update(multipliers=(1.0,), attention_at=(4,), width=8, groups=4, depth=1)
    config.training.update(num_timesteps=N, weighting="simple")
    choose(config, {name.replace("__", "."): value for name, value in changes.items()})
    check(config)
    return config


def levels_of(config: ConfigDict) -> ScoreLevels:
    return sde.score_levels(config, networks.build(config))


def model_of(config: ConfigDict) -> Continuous:
    return sde.model(config)


def test_ve_is_told_the_number_of_the_nearest_sigma_the_largest_first() -> None:
    model = model_of(make("ve_sde"))
    sigmas = np.exp(np.linspace(np.log(SIGMA_MAX), np.log(SIGMA_MIN), N))
    told = model.level_of(jnp.asarray(2 * np.log(2 * sigmas), jnp.float32)).t
    np.testing.assert_array_equal(told, np.arange(N))
    t = np.linspace(1, 1e-5, 777)  # of the SDE, as its sampler visits them
    labels = np.round((1 - t) * (N - 1))
    gamma = 2 * np.log(2 * SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** t)
    found = np.asarray(model.level_of(jnp.asarray(gamma, jnp.float32)).t)
    halves = np.abs((1 - t) * (N - 1) % 1 - 0.5) < 2e-2  # where rounding may go either way
    np.testing.assert_array_equal(found[~halves], labels[~halves])
    assert halves.mean() < 0.1


def test_two_levels_never_share_a_number() -> None:
    with pytest.raises(UserError, match=r"schedule.t_min=0.001 gives two of the 1000 levels .*set it below 0.0005"):
        make("ve_sde", schedule__t_min=1e-3)
    config = make("ve_sde", schedule__t_min=4e-4)
    model = model_of(config)
    _, gamma = levels_of(config).trained((jnp.arange(float(N)) + 0.5) / N)
    np.testing.assert_array_equal(np.sort(model.level_of(gamma).t), np.arange(N))


def test_ve_s_output_is_the_score_times_the_sigma_of_the_level_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its score of data in [0, 1] is h/σ_i whatever σ the data have: ε̂ = −σ h/σ_i."""
    model = model_of(make("ve_sde"))
    rng = np.random.default_rng(0)
    h = rng.standard_normal((3, 4, 4, 1)).astype(np.float32)
    monkeypatch.setattr(networks, "apply", lambda net, params, keys, z, level, cond: jnp.asarray(h))
    sigma = np.array([40.0, 0.7, 0.012])
    level = model.level_of(jnp.asarray(2 * np.log(2 * sigma), jnp.float32))
    eps = model.denoise({"network": {}})(jnp.zeros((3, 4, 4, 1)), level, {})
    sigmas = np.exp(np.linspace(np.log(SIGMA_MAX), np.log(SIGMA_MIN), N))
    nearest = sigmas[np.argmin(np.abs(np.log(sigmas)[None] - np.log(sigma)[:, None]), axis=1)]
    score = h / nearest[:, None, None, None]
    np.testing.assert_allclose(eps, -sigma[:, None, None, None] * score, rtol=1e-4)
    assert np.abs(sigma / nearest - 1).max() > 1e-4  # not all of them are levels


def test_ncsn_s_network_gives_the_score_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of data in [0, 1], asked with the number of one of its ten levels: ε̂ = −σ score."""
    model = model_of(make("ve_sde", model__network="refinenet", training__num_timesteps=10, schedule__sigma_max=1.0))
    score = np.random.default_rng(0).standard_normal((10, 4, 4, 1)).astype(np.float32)
    seen = []
    monkeypatch.setattr(networks, "apply", lambda *given: (seen.append(given[3:5]), jnp.asarray(score))[1])
    sigma = np.geomspace(1, 0.01, 10)
    z = jnp.ones((10, 4, 4, 1))
    eps = model.denoise({"network": {}})(z, model.level_of(jnp.asarray(2 * np.log(2 * sigma), jnp.float32)), {})
    np.testing.assert_allclose(eps, -sigma[:, None, None, None] * score, rtol=1e-5)
    np.testing.assert_array_equal(seen[0][0], z)
    np.testing.assert_array_equal(seen[0][1].t, np.arange(10))


def ddpm_gammas() -> np.ndarray:
    """γ of the levels of DDPM."""
    alpha_bar = np.cumprod(1 - np.linspace(0.1 / N, 20 / N, N))
    return np.log((1 - alpha_bar) / alpha_bar)


def test_vp_is_told_the_number_of_the_level_of_ddpm_that_has_its_noise() -> None:
    model = model_of(make("vp_sde"))
    gammas = ddpm_gammas()
    told = lambda gamma: np.asarray(model.level_of(jnp.asarray(gamma, jnp.float32)).t)
    np.testing.assert_allclose(told(gammas), np.arange(N), atol=2e-3)
    np.testing.assert_allclose(told((gammas[1:] + gammas[:-1]) / 2), np.arange(N - 1) + 0.5, atol=2e-3)
    assert told(np.array([gammas[0] - 1, gammas[-1] + 1])).tolist() == [0, N - 1]
    t = np.linspace(1e-3, 1, 50)
    b = 0.1 * t + 0.5 * 19.9 * t**2
    assert np.abs(told(np.log(np.expm1(b))) - t * (N - 1)).max() < 4  # the original's number, of a level nearby


@pytest.mark.parametrize("kind", [pytest.param("vp_sde", marks=pytest.mark.slow), "ve_sde"])
def test_training_draws_the_levels_whose_numbers_it_tells(kind: str) -> None:
    config = make(kind, training__num_timesteps=50)
    model = model_of(config)
    schedule = model.schedule({})
    t, gamma = levels_of(config).trained((jnp.arange(500.0) + 0.5) / 500)
    numbers = np.asarray(model.level_of(gamma).t)
    np.testing.assert_allclose(numbers, np.round(numbers), atol=2e-4)
    values, counts = np.unique(np.round(numbers), return_counts=True)
    np.testing.assert_array_equal(values, np.arange(50))
    np.testing.assert_array_equal(counts, 10)
    np.testing.assert_allclose(schedule.gamma(t), gamma, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("ve_sde", {"training__num_timesteps": 0}, r"needs the noise levels of training, and .*=0 has no indices"),
        ("vp_sde", {"training__num_timesteps": 20}, r"must be more than config\.schedule\.beta_max=20"),
        ("sub_vp_sde", {}, "has neither; set it to 've_sde' or 'vp_sde'"),
        ("ve_sde", {"evaluation__estimator": "ode"}, "an adaptive solver can't be used"),
        ("ve_sde", {"sampling__sampler": "adaptive"}, "an adaptive solver can't be used"),
        ("vp_sde", {"model__network": "unet", "model__fourier": ()}, "is for config.model.network='multiscale'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make(kind, **changes)
