"""A model in a notebook: what its functions return and refuse."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from tests.training.runs import FAST, points
from vdm_jax import api, methods
from vdm_jax.errors import UserError


@pytest.fixture(scope="module")
def model() -> api.Model:
    config = points()
    method = methods.build(config)
    params = jax.jit(method.init, compiler_options=FAST)(jax.random.key(0))
    return api.Model(config, method, params, 0)


def test_total_is_the_sum_of_the_terms_and_the_rest_stands_beside_it(model: Any) -> None:
    points = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    terms = model.bits_per_dim(points, passes=2)
    assert set(terms) == {"total", "reconstruction", "prior", "diffusion", "t", "error"}
    np.testing.assert_allclose(terms["total"], terms["reconstruction"] + terms["prior"] + terms["diffusion"], rtol=1e-5)


def test_levels_outside_the_schedule_are_refused(model: Any) -> None:
    points = np.zeros((3, 2), np.float32)
    low, high = float(model.schedule.gamma_0), float(model.schedule.gamma_1)
    for gamma in (low, 0.0, high):
        z = model.noise(points, gamma)
        variance = 1 / (1 + np.exp(-gamma))
        assert 0.05 < np.mean(np.square(z)) / variance < 4  # x = 0: noise alone
    for gamma in (low - 0.1, high + 0.1, np.nan):
        for function in (model.noise, model.denoise):
            with pytest.raises(UserError, match=rf"outside the schedule, which goes from {low:g} to {high:g}"):
                function(points, gamma)


@pytest.mark.slow
def test_trajectory_has_every_state(model: Any) -> None:
    samples, path = model.sample(4, num_steps=3, trajectory=True)
    assert samples.shape == (4, 2) and path.shape == (3, 4, 2)
    np.testing.assert_allclose(model.sample(4, num_steps=3), samples, atol=1e-5)


def test_weights_without_a_config_are_a_sentence(tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json; pass its config, e.g. config="):
        api.load(str(epath.Path(tmp_path)))


@pytest.mark.slow
def test_editing_goes_from_a_new_sample_to_the_image(model: Any) -> None:
    """Nothing known or all noise: the samples of the same seed. All known: the images. Half of each: both."""
    given = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    new = model.sample(4, seed=3, num_steps=4)
    np.testing.assert_allclose(model.inpaint(given, np.zeros(2, bool), seed=3, num_steps=4), new, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.vary(given, 1.0, seed=3, num_steps=4), new, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model.inpaint(given, np.ones(2, bool), num_steps=4), given)
    half = model.inpaint(given, np.array([True, False]), seed=3, num_steps=4, repeats=2)
    np.testing.assert_array_equal(half[:, 0], given[:, 0])
    assert np.all(half[:, 1] != given[:, 1]) and np.all(half[:, 1] != new[:, 1])
    other = model.vary(given + 1, 0.25, seed=3, num_steps=4) - model.vary(given, 0.25, seed=3, num_steps=4)
    assert np.all(np.abs(other) > 1e-3)  # what is noised a little remains what it was
    with pytest.raises(UserError, match=r"strength=0 is the fraction of the steps"):
        model.vary(given, 0)
