"""Configs: their components, variants, loading by name, and validation.

A config has exactly the fields of its components: its method, network, schedule, sampler, and so on. Fields such as
`method`, `model.network`, and `schedule.kind` select the components. A config file starts from `base()`, a VDM, selects
components with `choose`, sets other fields, and returns the config. `check` validates every config against the
declarations of its components before anything is compiled or written. Variants are named changes:

    def get_config(variant: str = "") -> ConfigDict:
        config = choose(base(), {"method": "sde", "schedule.kind": "ve_sde"})
        config.schedule.sigma_max = 90.0
        return with_variant(config, variant, {"mini": {"training.num_steps": 100}})
"""

from __future__ import annotations

from vdm_jax.config.files import load, packaged
from vdm_jax.config.parts import (
    base,
    check,
    check_names,
    choose,
    everything,
    fourier_exponents,
    from_saved,
    gamma_0_for,
    with_variant,
)
from vdm_jax.config.registry import active, field_table, nearest_field
from vdm_jax.config.saved import brief, differences, flatten
from vdm_jax.fields import Field, nearest, value

__all__ = [
    "Field",
    "active",
    "base",
    "brief",
    "check",
    "check_names",
    "choose",
    "differences",
    "everything",
    "field_table",
    "flatten",
    "fourier_exponents",
    "from_saved",
    "gamma_0_for",
    "load",
    "nearest",
    "nearest_field",
    "packaged",
    "value",
    "with_variant",
]
