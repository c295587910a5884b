"""What methods whose network predicts ε, x or v, and GANs, say alike of a config."""

from __future__ import annotations

import dataclasses

from jax import Array
from ml_collections import ConfigDict

from vdm_jax.diffusion import prediction
from vdm_jax.diffusion.process import Noise


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

    def split(self, raw: Array, z: Array, level: Noise) -> prediction.Prediction:
        """Raw output → (x̂, ε̂, the head of a learned variance)."""
        return prediction.split(raw, z, level, self.config.model.prediction)
