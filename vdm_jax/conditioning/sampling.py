"""The denoiser of a sampler: the network with its conditions, guidance and thresholding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jax import Array

from vdm_jax.conditioning.base import Cond, Condition, Guided
from vdm_jax.diffusion import guidance, samplers
from vdm_jax.diffusion.prediction import Denoise, Prediction

Interval = tuple[float, float]


def predictor(
    denoise: Denoise,
    split: Callable[..., Prediction],
    cond: Cond | Guided,
    conditions: Sequence[Condition],
    interval: Interval | None = None,
    threshold: Callable[[samplers.Predict], samplers.Predict] | None = None,
) -> samplers.Predict:
    """Return the denoiser (z, level) → Prediction of a sampler.

    Args:
        denoise: (z, level, cond) → raw output.
        split: Raw output → Prediction, without clipping.
        cond: Values of the conditions [b, …], or `Guided` values with guidance weights.
        conditions: The conditions, which define ∅ of the guided values.
        interval: (γ_min, γ_max) within which guidance acts; None for everywhere.
        threshold: The wrapper that bounds x̂, see `diffusion.thresholds`; None for no thresholding.
    """
    if isinstance(cond, Guided):
        predict = _guided(denoise, split, cond, conditions, interval)
    else:
        predict = samplers.predictor(denoise, split, cond)
    return threshold(predict) if threshold else predict


def _guided(
    denoise: Denoise,
    split: Callable[..., Prediction],
    guided: Guided,
    conditions: Sequence[Condition],
    interval: Interval | None,
) -> samplers.Predict:
    values: Mapping[str, Array] = guided.cond
    nulls = []
    for condition in conditions:
        if condition.name in guided.weights:
            weight: guidance.Weight = guided.weights[condition.name]
            if interval is not None:
                weight = guidance.interval(guided.weights[condition.name], *interval)
            nulls.append(({**values, condition.name: condition.null(values[condition.name])}, weight))
    if len(nulls) == 1:
        (null, weight) = nulls[0]
        return guidance.classifier_free(denoise, split, values, null, guidance_weight=weight)
    return guidance.classifier_free_of_several(denoise, split, values, nulls)
