"""Samples of an unconditional model that a classifier guides: exact on a mixture, and what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from ml_collections import ConfigDict

from tests.methods.test_classifier import MEANS, SHAPE, SPREAD, Exact, K, settings
from tests.training.runs import mesh_of
from vdm_jax import api, frozen, methods
from vdm_jax.conditioning.label import Label
from vdm_jax.config import check, choose
from vdm_jax.errors import UserError
from vdm_jax.evaluation import report
from vdm_jax.gaussian import networks
from vdm_jax.keys import example_keys
from vdm_jax.methods import classifier_guidance

LEVELS, COUNT = 200, 600
LABEL = jnp.arange(6) % K


def diffusion(**changes: Any) -> ConfigDict:
    """A DDPM of the levels that the classifier's settings have."""
    parts = {"method": "ddpm", "model.num_classes": 0, "training.weighting": "simple", "sampling.num_steps": LEVELS}
    config = choose(settings(schedule__num_timesteps=LEVELS), parts)
    choose(config, {name.replace("__", "."): value for name, value in changes.items()})
    check(config)
    return config


def judge(**changes: Any) -> ConfigDict:
    return settings(schedule__num_timesteps=LEVELS, **changes)


class ExactNoise(Exact):
    """ε̂ = −σ ∇ log p(z) of the mixture whose posterior `Exact` gives."""

    def apply(self, _: Any, z: Array, t: Array, *__: Any) -> Array:
        bar = jnp.asarray(self.bar, z.dtype)[jnp.round(t).astype(int)][:, None]
        variance = bar * SPREAD**2 + 1 - bar
        flat = z.reshape(len(z), 1, -1)
        apart = flat - jnp.sqrt(bar)[..., None] * MEANS.reshape(1, K, -1)
        weights = jax.nn.softmax(-jnp.square(apart).sum(-1) / (2 * variance))
        score = -jnp.sum(weights[..., None] * apart, 1) / variance
        return (-jnp.sqrt(1 - bar) * score).reshape(z.shape)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_an_exact_classifier_makes_samples_of_its_class(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """∇ log p(z) + ∇ log p(c|z) = ∇ log p(z|c): at s = 1 the mean and spread of the class; at s = 0 all classes."""
    exact = {"ddpm": ExactNoise, "classifier": Exact}
    monkeypatch.setattr(networks, "build", lambda config: exact[config.method](config))
    keys, label = example_keys(jax.random.key(0), jnp.arange(COUNT)), jnp.arange(COUNT) % K
    params = {"network": {}, "classifier": {"network": {}}}
    spread = {}
    for scale in (0.0, 1.0):
        config = diffusion(sampling__sampler=sampler, sampling__classifier_scale=scale)
        method = classifier_guidance.build(config, judge())
        assert method.conditions == (Label(num_classes=K, null_samples=False),) and method.sample is not None
        x, _ = jax.jit(method.sample, static_argnums=(3, 4))(params, keys, {"label": label}, LEVELS, ())
        apart = np.asarray(x)[:, None] - MEANS
        spread[scale] = [np.sqrt(np.mean(np.square(apart[label == c, c]))) for c in range(K)]
        if scale:
            for c in range(K):
                error = 5 * SPREAD / np.sqrt(COUNT / K)
                np.testing.assert_allclose(np.mean(x[label == c], 0), MEANS[c], atol=error + 0.02)
    # β̃ is the variance of a step for a point; 200 of them narrow a Gaussian by some percent
    np.testing.assert_allclose(spread[1.0], SPREAD, rtol=0.05 if sampler == "ddim" else 0.07)
    assert min(spread[0.0]) > 2 * SPREAD


@pytest.mark.slow
def test_a_notebook_s_samples_are_those(monkeypatch: pytest.MonkeyPatch) -> None:
    """At s = 1 those of the config, at s = 0 those of the model alone; each sample may have its own."""
    exact = {"ddpm": ExactNoise, "classifier": Exact}
    monkeypatch.setattr(networks, "build", lambda config: exact[config.method](config))
    config, network = diffusion(sampling__sampler="ddim", sampling__num_steps=20), {"network": {}}
    model, guide = (api.Model(c, methods.build(c), network, 0) for c in (config, judge()))
    mixed = model.sample(6, classifier=guide, classifier_scale=np.array([0.0, 1.0] * 3))
    np.testing.assert_allclose(mixed[::2], model.sample(6)[::2], atol=1e-5)
    method = classifier_guidance.build(config, judge())
    assert method.sample is not None
    keys = example_keys(jax.random.key(0), jnp.arange(6))
    guided, _ = jax.jit(method.sample, static_argnums=(3, 4))(
        {**network, "classifier": network}, keys, {"label": LABEL}, 20, ()
    )
    np.testing.assert_allclose(mixed[1::2], guided[1::2], atol=1e-5)
    with pytest.raises(UserError, match=r"has to be trained on noisy images"):
        model.sample(6, classifier=model)
    with pytest.raises(UserError, match=r"labels must be 0 to 2"):
        model.sample(6, classifier=guide, label=K)
    with pytest.raises(UserError, match=r"classifier_scale must be a finite number or one for each of the 6"):
        model.sample(6, classifier=guide, classifier_scale=np.ones(5))


class OfLabel(Exact):
    """ε̂ = 0.1 (1 + label), of K classes and ∅."""

    def apply(self, _: Any, z: Array, t: Array, cond: Any, *__: Any) -> Array:
        return jnp.ones_like(z) * 0.1 * (1 + cond["label"].astype(z.dtype)[:, None, None, None])


@pytest.mark.slow
def test_both_guidances_act_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the classifier's scale is 0 the samples are those of classifier-free guidance; the command line agrees."""
    monkeypatch.setattr(networks, "build", lambda c: {"ddpm": OfLabel, "classifier": Exact}[c.method](c))
    labels = {"model__num_classes": K, "model__null_class": True, "training__label_dropout": 0.1}
    config = diffusion(**labels, sampling__sampler="ddim", sampling__num_steps=3, sampling__num_images=6)
    network: dict[str, Any] = {"network": {}}
    model, guide = (api.Model(c, methods.build(c), network, 0) for c in (config, judge()))
    free = model.sample(6, guidance_weight=2.0)
    both = model.sample(6, guidance_weight=2.0, classifier=guide, classifier_scale=np.array([0.0, 1.0] * 3))
    np.testing.assert_allclose(both[::2], free[::2], rtol=1e-5, atol=1e-5)
    assert np.abs(both[1::2] - free[1::2]).max() > 1e-2
    config.sampling.guidance, config.sampling.classifier_scale = (2.0,), 1.0
    method, params = classifier_guidance.build(config, judge()), {**network, "classifier": network}
    drawn = report.sample(config, method, params, mesh_of(2), 6).images
    np.testing.assert_allclose(drawn[1::2], both[1::2], rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=r"labels must be 0 to 2"):
        model.sample(6, classifier=guide, label=K)


@pytest.mark.parametrize(
    ("ours", "theirs", "sentence"),
    [
        ({}, {"schedule__beta_max": 12.0}, r"schedule\.beta_max=15\.0, but the classifier 'there' was trained with 12"),
        ({}, {"model__rescale_time": True}, r"rescale_time=False, but the classifier"),
        ({"model__num_classes": K + 1}, {}, r"num_classes=4, but the classifier 'there' has 3 classes"),
        ({"sampling__label": K, "sampling__classifier": "there"}, {}, r"label=3 is not one of the 3 classes"),
    ],
)
def test_a_classifier_of_something_else_is_refused(ours: Any, theirs: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        frozen.check_classifier(diffusion(**ours), judge(**theirs), "there")


def test_a_guide_has_to_know_noise_and_to_guide_a_table() -> None:
    with pytest.raises(UserError, match=r"has to be trained on noisy images"):
        frozen.check_classifier(diffusion(), diffusion(), "there")
    other = ConfigDict(judge().to_dict())
    choose(other, {"method": "vdm"})
    with pytest.raises(UserError, match=r"config\.method='vdm' has none"):
        frozen.check_classifier(other, judge(), "there")


def test_shapes_are_compared() -> None:
    large = judge()
    large.data.shape = (2 * SHAPE[0], *SHAPE[1:])
    with pytest.raises(UserError, match=r"data\.shape=\(4, 4, 1\), but the classifier"):
        frozen.check_classifier(diffusion(), large, "there")


def test_a_network_that_is_told_t_is_not_guided_by_one_that_is_told_numbers() -> None:
    plain = diffusion()
    choose(plain, {"model.network": "unet"})
    with pytest.raises(UserError, match=r"network='unet' has the time input t, but the classifier"):
        frozen.check_classifier(plain, judge(), "there")
