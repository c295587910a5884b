"""What methods whose network predicts ε, x or v, and GANs, say alike of a config."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from jax import Array
from ml_collections import ConfigDict

from vdm_jax import conditioning
from vdm_jax.conditioning import Cond, Conditions
from vdm_jax.conditioning.sampling import predictor
from vdm_jax.core.method import Batch
from vdm_jax.diffusion import prediction, samplers, thresholds
from vdm_jax.diffusion.process import Noise
from vdm_jax.fields import EVERYWHERE


@dataclasses.dataclass(frozen=True, eq=False)
class OfConfig:
    """The base of the classes that hold a method's functions. Compared by identity, for caches of what is compiled."""

    config: ConfigDict

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(self.config.data.shape)

    @property
    def vocabulary(self) -> int | None:
        """Levels of a value; None for continuous data."""
        return self.config.data.vocabulary or None

    @functools.cached_property
    def conditions(self) -> Conditions:
        """What examples are conditioned on."""
        return conditioning.build(self.config)

    def encode(self, x: Array) -> Array:
        """Data → what is diffused, on the scale of clean data."""
        raise NotImplementedError

    def cond_of(self, batch: Batch, drop_keys: Array | None = None) -> Cond:
        """What the network is conditioned on; drop_keys [B] in training."""
        return conditioning.of_batch(self.conditions, batch, self.encode, drop_keys)

    def predictor(self, denoise: prediction.Denoise, cond: Any) -> samplers.Predict:
        """What a sampler's steps call: guided if cond is `Guided`, then clipped as `sampling` says."""
        section = self.config.sampling
        interval = tuple(section.guidance_interval)
        return predictor(
            denoise,
            self.split,
            cond,
            self.conditions,
            None if interval == EVERYWHERE else interval,
            _threshold(section) if section.clip else None,
        )

    def split(self, raw: Array, z: Array, level: Noise) -> prediction.Prediction:
        """Raw output → (x̂, ε̂, the head of a learned variance)."""
        return prediction.split(raw, z, level, self.config.model.prediction)


def _threshold(section: ConfigDict) -> Callable[[samplers.Predict], samplers.Predict]:
    if section.percentile:
        return lambda predict: thresholds.dynamic(predict, section.percentile)
    return thresholds.static
