"""The augmentation bit (VDM, appendix B): 1 for augmented training images, 0 in likelihoods and samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from vdm_jax.conditioning.base import Condition
from vdm_jax.keys import CONDITIONS
from vdm_jax.networks.encoders import Encoder, Feature

NAME = "augmented"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmented(Condition):
    """A bit that is concatenated to the features of t, for networks whose original code has it."""

    name: str = NAME
    purpose: int = CONDITIONS + 1

    def of_records(self, records: Mapping[str, np.ndarray]) -> np.ndarray:
        return records[NAME]

    @property
    def chosen(self) -> bool:
        return False

    def encoder(self) -> Encoder:
        return Feature(self.name)


def from_config(config: ConfigDict) -> Augmented | None:
    """Return the augmentation bit of VDM's U-Net and the MLP, or None; models with labels do not have it."""
    takes_it = config.model.network in ("unet", "mlp") and config.method != "ddgan"
    return Augmented() if takes_it and not config.model.get("num_classes", 0) else None
