"""What a sampler's steps call: guided conditions are replaced by their own ∅, within the interval, then thresholded."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tests.conditioning.test_contract import Text
from tests.diffusion.closed_forms import level
from vdm_jax.conditioning import Cond, Guided
from vdm_jax.conditioning.label import Label
from vdm_jax.conditioning.sampling import predictor
from vdm_jax.diffusion import prediction, thresholds

CONDITIONS = (Label(num_classes=3, null_class=True), Text())
LABELS, TEXT = np.array([0, 1, 2, 1]), np.random.default_rng(0).normal(size=(4, 2, 3))
W_LABEL, W_TEXT = np.array([0.0, 1.0, -1.0, 2.0]), np.array([0.5, 0.0, 3.0, 1.0])
Z = np.random.default_rng(1).normal(size=(4, 5))


def raw(z: Any, labels: Any, text: Any) -> Any:
    """ε̂ that is not a sum of what its conditions contribute, of z [b, 5], labels [b], text [b, 2, 3]."""
    return z * (1 + labels)[:, None] + (labels * text.mean((1, 2)))[:, None] + text[:, :1, 0] ** 2


def denoise(z: Array, now: Any, cond: Cond) -> Array:
    return raw(z, cond["label"].astype(z.dtype), cond["text"])


def guided(weights: dict[str, np.ndarray], now: Any, **more: Any) -> prediction.Prediction:
    cond = {"label": jnp.asarray(LABELS), "text": jnp.asarray(TEXT)}
    given = Guided(cond, {name: jnp.asarray(w) for name, w in weights.items()})
    return jax.jit(lambda z: predictor(denoise, prediction.split, given, CONDITIONS, **more)(z, now))(jnp.asarray(Z))


def by_hand(w_label: np.ndarray, w_text: np.ndarray) -> np.ndarray:
    """ε̂_c + Σ w_i (ε̂_c − ε̂_i)."""
    full = raw(Z, LABELS, TEXT)
    without_label, without_text = raw(Z, np.full(4, 3), TEXT), raw(Z, LABELS, np.full_like(TEXT, -1))
    return full + w_label[:, None] * (full - without_label) + w_text[:, None] * (full - without_text)


def test_several_weights_extrapolate_from_each_condition_s_own_null(x64: None) -> None:
    found = guided({"label": W_LABEL, "text": W_TEXT}, level(0.3))
    eps = by_hand(W_LABEL, W_TEXT)
    np.testing.assert_allclose(found.eps, eps, rtol=1e-12)
    now = level(0.3)
    np.testing.assert_allclose(now.alpha * found.x + now.sigma * found.eps, Z, rtol=1e-10, atol=1e-12)


def test_a_condition_without_a_weight_stays(x64: None) -> None:
    nothing = np.zeros(4)
    for weights, eps in (
        ({"label": W_LABEL}, by_hand(W_LABEL, nothing)),
        ({"text": W_TEXT}, by_hand(nothing, W_TEXT)),
        ({"label": nothing, "text": nothing}, raw(Z, LABELS, TEXT)),
    ):
        np.testing.assert_allclose(guided(weights, level(0.3)).eps, eps, rtol=1e-12)


def test_an_interval_bounds_the_guidance_of_all_conditions(x64: None) -> None:
    """Inside as everywhere, outside as without weights."""
    weights = {"label": W_LABEL, "text": W_TEXT}
    within, outside = (guided(weights, level(gamma), interval=(-1.0, 1.0)).eps for gamma in (0.3, 2.0))
    np.testing.assert_allclose(within, by_hand(W_LABEL, W_TEXT), rtol=1e-12)
    np.testing.assert_allclose(outside, raw(Z, LABELS, TEXT), rtol=1e-12)


def test_what_is_guided_is_thresholded_last(x64: None) -> None:
    now = level(0.3)
    found = guided({"label": W_LABEL, "text": W_TEXT}, now, threshold=thresholds.static)
    x = (Z - now.sigma * by_hand(W_LABEL, W_TEXT)) / now.alpha
    assert np.abs(x).max() > 1
    np.testing.assert_allclose(found.x, np.clip(x, -1, 1), rtol=1e-10, atol=1e-12)
