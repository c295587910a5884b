"""What a network is told of an example besides z and t: its label, or none; and samples guided by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.diffusion import guidance, samplers, thresholds
from vdm_jax.diffusion.prediction import Denoise, Prediction
from vdm_jax.fields import EVERYWHERE
from vdm_jax.methods.base import fold

# The purpose that a key is folded for; methods number theirs from 0.
DROPPED = 100


class Guided(NamedTuple):
    """What samples are to be, instead of labels alone. label: [b]; weight: w of classifier-free guidance, [b]."""

    label: Array
    weight: Array


def asked(config: ConfigDict, classes: int, index: np.ndarray) -> np.ndarray:
    """What sample k is to be, [b]: `sampling.label` or, if that is −1, the classes in turn; 0 without classes."""
    label = config.sampling.label
    if not classes:
        return np.zeros(len(index), np.float32)
    return (index % classes if label < 0 else np.full(len(index), label)).astype(np.int32)


def dropped(config: ConfigDict, cond: Array, keys: Array) -> Array:
    """Labels [B], each replaced by the null class with probability p_uncond (Ho & Salimans 2022, algorithm 1)."""
    share = config.training.label_dropout
    if not share:
        return cond
    u = jax.vmap(jax.random.uniform)(fold(keys, DROPPED))
    return jnp.where(u < share, jnp.asarray(config.model.num_classes, cond.dtype), cond)


def predictor(config: ConfigDict, denoise: Denoise, split: Callable[..., Prediction], cond: Any) -> samplers.Predict:
    """What a sampler's steps ask, guided if cond is `Guided`, then clipped as `sampling` says; split does not clip."""
    section = config.sampling
    if isinstance(cond, Guided):
        null = jnp.full_like(cond.label, config.model.num_classes)
        everywhere = tuple(section.guidance_interval) == EVERYWHERE
        weight = cond.weight if everywhere else guidance.interval(cond.weight, *section.guidance_interval)
        predict = guidance.classifier_free(denoise, split, cond.label, null, guidance_weight=weight)
    else:
        predict = samplers.predictor(denoise, split, cond)
    if not section.clip:
        return predict
    return thresholds.dynamic(predict, section.percentile) if section.percentile else thresholds.static(predict)
