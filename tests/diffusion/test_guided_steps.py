"""Guided steps of openai/guided-diffusion, of both kinds, with its noise (goldens/guided_diffusion.npz).

What its p_sample (condition_mean) and ddim_sample (condition_score) made in float64 of one network output, one
gradient and one noise: on the tables of T = 1000, linear and cosine, and on 250 and 25 of their levels.
"""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from vdm_jax.diffusion import guidance, prediction, reverse, samplers, tables, thresholds

GOLDEN = np.load(pathlib.Path(__file__).parent / "goldens" / "guided_diffusion.npz")
CASES = ("linear", "cosine", "linear_250", "cosine_ddim25")
SCALE = float(GOLDEN["scale"])


@pytest.fixture(autouse=True)
def injected(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (samplers, reverse):
        monkeypatch.setattr(module, "normal", lambda keys, z: jnp.asarray(GOLDEN["noise"]))


def steps(name: str) -> samplers.Transition:
    """Of the golden's chain, at its levels."""
    betas = tables.linear_betas(1000) if name.startswith("linear") else tables.cosine_betas(1000)
    return tables.from_betas(tables.merge(betas, GOLDEN[f"{name}|map"])).at(jnp.asarray(GOLDEN[f"{name}|t"]))


def predict(clip: bool) -> samplers.Predict:
    """The golden's network."""
    predict = lambda z, level: prediction.split(jnp.asarray(GOLDEN["raw"]), z, level)
    return thresholds.static(predict) if clip else predict


def gradient(z: Array, level: object) -> Array:
    return jnp.asarray(GOLDEN["gradient"])


def close(found: Array, name: str) -> bool:
    return np.allclose(found, GOLDEN[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_the_mean_is_shifted_by_the_learned_variance_as_in_the_original(name: str, clip: bool, x64: None) -> None:
    step, z, keys = steps(name), jnp.asarray(GOLDEN["z"]), jax.random.split(jax.random.key(0), len(GOLDEN["z"]))
    plain = reverse.gaussian(predict(clip), "learned")
    assert close(plain(z, step)[0], f"{name}|mean_{clip}")
    guided = guidance.mean_shift(plain, gradient, classifier_scale=SCALE)
    assert close(reverse.drawn(guided)(keys, z, step), f"{name}|ancestral_{clip}")
    # another variance, or the score shift, is another step
    scalar = reverse.gaussian(predict(clip), "posterior")
    by_scalar = lambda z, step: (
        guidance.mean_shift(scalar, gradient, classifier_scale=SCALE)(z, step)[0],
        plain(z, step)[1],
    )
    assert not close(reverse.drawn(by_scalar)(keys, z, step), f"{name}|ancestral_{clip}")
    by_score = guidance.classifier(predict(clip), gradient, classifier_scale=SCALE)
    assert not close(reverse.ancestral(by_score, "learned")(keys, z, step), f"{name}|ancestral_{clip}")


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_the_score_is_shifted_after_clipping_as_in_the_original(name: str, clip: bool, x64: None) -> None:
    step, z, keys = steps(name), jnp.asarray(GOLDEN["z"]), jax.random.split(jax.random.key(0), len(GOLDEN["z"]))
    guided = guidance.classifier(predict(clip), gradient, classifier_scale=SCALE)
    assert close(guided(z, step.frm).x, f"{name}|shifted_x_{clip}")
    assert close(samplers.ddim(guided)(keys, z, step), f"{name}|ddim_{clip}")
    assert close(samplers.ddim(guided, 0.5)(keys, z, step), f"{name}|ddim_half_{clip}")
    weaker = guidance.classifier(predict(clip), gradient, classifier_scale=SCALE - 1)
    assert not close(samplers.ddim(weaker)(keys, z, step), f"{name}|ddim_{clip}")
