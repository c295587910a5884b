"""Upsamplers, on an exact model of independent pixels: what they enlarge, and what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from ml_collections import ConfigDict

from tests.methods.test_classifier import MEANS, Exact, K
from tests.methods.test_classifier import settings as judge
from vdm_jax import api, methods
from vdm_jax.conditioning import Guided
from vdm_jax.config import base, check, choose
from vdm_jax.core.method import Method
from vdm_jax.errors import UserError
from vdm_jax.gaussian import networks
from vdm_jax.keys import example_keys
from vdm_jax.methods import classifier_guidance, ddpm
from vdm_jax.networks.resample import area

T, SPREAD, SIDE = 40, 0.5, 2


def settings(**changes: Any) -> ConfigDict:
    """An upsampler from 2 × 2 to 4 × 4 real numbers, without labels."""
    parts = {
        "method": "ddpm",
        "model.network": "multiscale",
        "model.family": "adm",
        "model.low_resolution": SIDE,
        "schedule.kind": "ddpm_linear",
        "training.weighting": "simple",
        "sampling.sampler": "ddim",
    }
    config = choose(base(), parts)
    config.data.shape, config.data.vocabulary = (4, 4, 1), 0
    config.model.width, config.model.depth, config.model.groups, config.model.head_channels = 8, 1, 4, 4
    config.model.multipliers, config.model.attention_at = (1.0, 2.0), (2,)
    config.schedule.num_timesteps, config.schedule.beta_max = T, 15.0
    config.sampling.num_steps = T
    choose(config, {name.replace("__", "."): value for name, value in changes.items()})
    check(config)
    return config


def repeated(low: Any) -> Array:
    return jnp.repeat(jnp.repeat(low, 2, 1), 2, 2)


class Pixels:
    """E[ε | z_t, block means] for pixels x ~ N(0, SPREAD² I), as a network of z, the level and the block means."""

    def __init__(self, config: ConfigDict) -> None:
        self.bar = np.cumprod(1 - ddpm.betas_of(config))

    def apply(self, _: Any, z: Array, t: Array, cond: Any, *__: Any) -> Array:
        bar = jnp.asarray(self.bar, z.dtype)[jnp.round(t).astype(int)][:, None, None, None]
        x = repeated(cond["low_resolution"])
        x = x + jnp.sqrt(bar) * SPREAD**2 / (bar * SPREAD**2 + 1 - bar) * (z - repeated(area(z, SIDE)))
        return (z - jnp.sqrt(bar) * x) / jnp.sqrt(1 - bar)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"ddpm": Pixels, "classifier": Exact}
    monkeypatch.setattr(networks, "build", lambda config: made[config.method](config))


def drawn(method: Method, cond: Any, count: int) -> np.ndarray:
    keys = example_keys(jax.random.key(0), jnp.arange(count))
    params = {"network": {}, "classifier": {"network": {}}}
    assert method.sample is not None
    return np.asarray(jax.jit(method.sample, static_argnums=(3, 4))(params, keys, cond, T, ())[0])


def test_the_area_mean_is_the_mean_of_each_block() -> None:
    with jax.enable_x64(True):
        x, y = np.random.default_rng(0).normal(size=(2, 3, 6, 9, 2))
        blocks = [[x[:, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3].mean((1, 2)) for j in range(3)] for i in range(3)]
        np.testing.assert_allclose(area(x, 3), np.array(blocks).transpose(2, 0, 1, 3), rtol=1e-14)
        np.testing.assert_allclose(area(x - 2 * y, 3), area(x, 3) - 2 * area(y, 3), atol=1e-14)
        np.testing.assert_allclose(area(repeated(y[:, :, :6]), 6), y[:, :, :6], rtol=1e-15)


def test_training_gives_the_area_mean_of_the_image(exact: None) -> None:
    """Where the block means are known nothing of the noise there is unknown: ‖ε − ε̂‖² is that of the other 12 of 16
    dimensions, α² s²/(α² s² + σ²) each; with means of anything else it would be larger."""
    count = 2000
    config = settings()
    model = ddpm.model(config)
    image = SPREAD * np.random.default_rng(1).normal(size=(count, 4, 4, 1))
    keys = example_keys(jax.random.key(0), jnp.arange(count))
    at_level = jax.jit(lambda batch, index: model.at_levels({"network": {}}, batch, keys, jnp.full(count, index))[0])
    for index in (0, T // 2, T - 1):
        with jax.enable_x64(True):
            batch = {"x": jnp.asarray(image), "cond": {}}
            error = np.asarray(at_level(batch, index))
        bar = np.cumprod(1 - ddpm.betas_of(config))[index]
        known = bar * SPREAD**2 / (bar * SPREAD**2 + 1 - bar)
        assert abs(error.mean() - 0.75 * known) < 4 * error.std() / np.sqrt(count)


@pytest.mark.parametrize("sampler", ["ddim", pytest.param("ancestral", marks=pytest.mark.slow)])
def test_samples_have_the_block_means_that_were_given(sampler: str, exact: None) -> None:
    low = np.random.default_rng(0).normal(size=(300, SIDE, SIDE, 1)).astype(np.float32)
    x = drawn(methods.build(settings(sampling__sampler=sampler)), {"low_resolution": jnp.asarray(low)}, 300)
    np.testing.assert_allclose(area(x, SIDE), low, atol=1e-5)
    np.testing.assert_allclose(np.std(x - repeated(low)), SPREAD * np.sqrt(0.75), rtol=0.2)  # of 40 steps


@pytest.mark.slow
def test_a_notebook_gives_what_is_enlarged(exact: None) -> None:
    """Samples have the block means that were given, variations those of their images."""
    config = settings()
    model = api.Model(config, methods.build(config), {"network": {}}, 0)
    low, x = (np.random.default_rng(2).normal(size=(3, side, side, 1)).astype(np.float32) for side in (SIDE, 4))
    np.testing.assert_allclose(area(model.sample(3, low_resolution=low), SIDE), low, atol=1e-5)
    varied = model.vary(x, 0.5)
    assert np.abs(varied - x).max() > 0.1
    np.testing.assert_allclose(area(varied, SIDE), area(x, SIDE), atol=1e-5)
    hole = np.zeros((3, 4, 4, 1), bool)
    filled = model.inpaint(x, hole, num_steps=8, low_resolution=low)  # all new, of what is given alone
    np.testing.assert_allclose(area(filled, SIDE), low, atol=1e-5)
    with pytest.raises(UserError, match="needs the small images: pass low_resolution"):
        model.inpaint(x, hole)
    with pytest.raises(UserError, match="low_resolution must be finite"):
        model.sample(3, low_resolution=np.where(low > 0, np.nan, low))
    for wrong, sentence in ((None, "not nothing"), (x, r"not images of shape \(3, 4, 4, 1\)")):
        with pytest.raises(UserError, match=f"low_resolution of this upsampler must be images of shape .*{sentence}"):
            model.sample(3, low_resolution=wrong)
    other = settings(model__low_resolution=0)
    with pytest.raises(
        UserError, match="'low_resolution' was passed, but this model is conditioned on nothing; leave it out"
    ):
        api.Model(other, methods.build(other), {"network": {}}, 0).sample(3, low_resolution=low)


@pytest.mark.slow
def test_a_classifier_guides_an_upsampler(exact: None) -> None:
    """It sees z and the label alone, and takes samples nearer to the mean of its class."""
    count = 60
    label = jnp.arange(count) % K
    cond = {"label": label, "low_resolution": area(jnp.asarray(MEANS, jnp.float32)[label], SIDE)}
    plain = drawn(methods.build(settings()), cond, count)
    theirs = judge(schedule__num_timesteps=T)
    guided = drawn(classifier_guidance.build(settings(sampling__classifier_scale=3.0), theirs), cond, count)
    distance = [np.square(x - MEANS[np.asarray(label)]).mean() for x in (plain, guided)]
    assert distance[1] < 0.8 * distance[0]


def test_guidance_without_a_classifier_drops_the_label_and_keeps_the_image() -> None:
    """(1 + w) ε̂(c, low) − w ε̂(∅, low) of an ε̂ that is 10 c + the first pixel of low."""
    config = settings(model__num_classes=3, model__null_class=True, training__label_dropout=0.1)
    value = lambda cond: 10.0 * cond["label"].astype(jnp.float32) + cond["low_resolution"][:, 0, 0, 0]
    denoise = lambda z, level, cond: jnp.ones_like(z) * value(cond)[:, None, None, None]
    low, w = jnp.arange(4.0)[:, None, None, None] * jnp.ones((1, SIDE, SIDE, 1)), jnp.array([0.0, 1.0, -1.0, 2.0])
    label = jnp.array([0, 1, 2, 1])
    model = ddpm.model(config)
    predict = jax.jit(model.predictor(denoise, Guided({"label": label, "low_resolution": low}, {"label": w})))
    found = predict(jnp.zeros((4, 4, 4, 1)), model.table.level(jnp.asarray(3))).eps[:, 0, 0, 0]
    np.testing.assert_allclose(found, (1 + w) * 10 * label.astype(w.dtype) - w * 30 + jnp.arange(4.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model__low_resolution": 3}, r"low_resolution=3 is not the side .* 4 × 4 pixels .*; try 2"),
        ({"model__low_resolution": 4}, r"low_resolution=4 is not the side .*; try 2"),
        (
            {"model__low_resolution": 0, "sampling__low_resolution": "x.npz"},
            r"it belongs to a config\.model\.low_resol",
        ),
        (
            {"model__network": "unet", "model__low_resolution": 2},
            r"low_resolution: config\.model\.network='unet' has no such field; it belongs to .*network='multiscale'",
        ),
    ],
)
def test_an_upsampler_that_cannot_be_is_refused(changes: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        settings(**changes)
