"""Conditions of a model: one file per condition, and their common interface in `base`."""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

from vdm_jax.conditioning import augmentation, label, low_resolution, text
from vdm_jax.conditioning.base import (
    Cond,
    Condition,
    Conditions,
    Guided,
    batch_of,
    data_requirements,
    defaults,
    from_user,
    guided,
    of_batch,
    prepared,
    requests,
    specs,
    specs_of_values,
)

__all__ = [
    "Cond",
    "Condition",
    "Conditions",
    "Guided",
    "batch_of",
    "build",
    "data_requirements",
    "defaults",
    "from_user",
    "guided",
    "of_batch",
    "prepared",
    "requests",
    "specs",
    "specs_of_values",
]

# The order in which values for samples are requested: a low-resolution image comes with its label.
FROM_CONFIG: tuple[Callable[[ConfigDict], Condition | None], ...] = (
    low_resolution.from_config,
    label.from_config,
    augmentation.from_config,
    text.from_config,
)


def build(config: ConfigDict) -> Conditions:
    """Return the conditions of a config."""
    made = [from_config(config) for from_config in FROM_CONFIG]
    return tuple(condition for condition in made if condition is not None)
