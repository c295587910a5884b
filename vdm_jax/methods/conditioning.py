"""What a network is told of an example besides z and t: its label or none, of an upsampler a smaller image too; and
samples guided by the label.

A label (or a bit) alone is an array [B]; more than that is a `Conditioning`, whose fields grow with the methods. An
upsampler is given the area mean of the image in training and in its likelihood, in sampling what another model made.
"""

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
from vdm_jax.fields import EVERYWHERE, value
from vdm_jax.methods.base import Batch, fold
from vdm_jax.networks import resample

# The purpose that a key is folded for; methods number theirs from 0.
DROPPED = 100


class Conditioning(NamedTuple):
    """What a network is told that is told more than a label. label: [B]; low: a smaller image, [B, h, w, C], on the
    scale of clean data."""

    label: Array
    low: Array


class Guided(NamedTuple):
    """What samples are to be, instead of what the network is told alone. told: labels [b] or `Conditioning`; weight: w
    of classifier-free guidance, [b]."""

    told: Any
    weight: Array


def told(label: Any, low: Any = None, weight: Any = None) -> Any:
    """What samples are to be, of its parts: labels [b], the smaller images of an upsampler, the weights of guidance."""
    found = label if low is None else Conditioning(label, low)
    return found if weight is None else Guided(found, weight)


def label_of(cond: Any) -> Array:
    """The labels [b] in what samples are to be."""
    cond = cond.told if isinstance(cond, Guided) else cond
    return cond.label if isinstance(cond, Conditioning) else cond


def relabelled(cond: Any, label: Array) -> Any:
    """The same with other labels [b]."""
    if isinstance(cond, Guided):
        return cond._replace(told=relabelled(cond.told, label))
    return cond._replace(label=label) if isinstance(cond, Conditioning) else label


def of_batch(config: ConfigDict, batch: Batch, encode: Callable[[Array], Array]) -> Any:
    """What the network is told of a batch; encode: data → the scale of clean data."""
    label, side = batch["conditioning"], value(config, "model.low_resolution", 0)
    return Conditioning(label, resample.area(encode(batch["image"]), side)) if side else label


def asked(config: ConfigDict, classes: int, index: np.ndarray) -> np.ndarray:
    """What sample k is to be, [b]: `sampling.label` or, if that is −1, the classes in turn; 0 without classes."""
    label = value(config, "sampling.label", -1)
    if not classes:
        return np.zeros(len(index), np.float32)
    return (index % classes if label < 0 else np.full(len(index), label)).astype(np.int32)


def dropped(config: ConfigDict, cond: Array, keys: Array) -> Array:
    """Labels [B], each replaced by the null class with probability p_uncond (Ho & Salimans 2022, algorithm 1)."""
    share = value(config, "training.label_dropout", 0.0)
    if not share:
        return cond
    u = jax.vmap(jax.random.uniform)(fold(keys, DROPPED))
    return jnp.where(u < share, jnp.asarray(config.model.num_classes, cond.dtype), cond)


def predictor(config: ConfigDict, denoise: Denoise, split: Callable[..., Prediction], cond: Any) -> samplers.Predict:
    """What a sampler's steps ask, guided if cond is `Guided`, then clipped as `sampling` says; split does not clip."""
    section = config.sampling
    if isinstance(cond, Guided):
        null = relabelled(cond.told, jnp.full_like(label_of(cond), config.model.num_classes))
        everywhere = tuple(section.guidance_interval) == EVERYWHERE
        weight = cond.weight if everywhere else guidance.interval(cond.weight, *section.guidance_interval)
        predict = guidance.classifier_free(denoise, split, cond.told, null, guidance_weight=weight)
    else:
        predict = samplers.predictor(denoise, split, cond)
    if not section.clip:
        return predict
    return thresholds.dynamic(predict, section.percentile) if section.percentile else thresholds.static(predict)
