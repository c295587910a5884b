"""Configs made of parts: choosing parts and values, variants, and the check that every config passes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import registry
from vdm_jax.config.registry import SECTIONS, active, field_table, nearest_field
from vdm_jax.config.saved import flatten, renamed, values_of
from vdm_jax.errors import UserError
from vdm_jax.fields import Field, nearest


def base() -> ConfigDict:
    """Return the default config, a VDM on digits, as a locked ConfigDict."""
    return _reshaped(ConfigDict(), active({})).lock()


def everything() -> ConfigDict:
    """Return every field of every component at its default; not a valid config, but it has the types for parsing."""
    return _reshaped(ConfigDict(), field_table()).lock()


def choose(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Set fields of a config in place, including those that select components.

    The order of the changes does not matter. Fields of newly selected components start at their defaults, fields of
    deselected components are removed, and a field that both have keeps its value.

    Args:
        config: The config.
        changes: The new values by dotted field names.

    Returns:
        The same config.

    Raises:
        UserError: If the resulting components do not have a field of `changes`.
    """
    changes = renamed(changes)
    values = dict(flatten(config)) | changes
    held = active(values)
    for name in changes:
        if name not in held:
            raise UserError(refused(name, values))
    _reshaped(config, held)
    for name, new in changes.items():
        _set(config, name, new)
    return config


def refused(name: str, values: Mapping[str, Any]) -> str:
    """Return the sentence for a field that a config does not have.

    Raises:
        UserError: If the cause is an illegal value of a field that selects components.
    """
    if name not in field_table():
        return f"unknown config field config.{name}; {nearest_field(name, active(values))}"
    for other, field in active(values).items():
        if field.choices and other in values:
            registry.check_field(other, values[other], field, values)
    return registry.refusal(name, values)


def _reshaped(config: ConfigDict, held: Mapping[str, Field]) -> ConfigDict:
    """Change a config in place to have the fields `held`: add missing fields at their defaults, remove known others."""
    there, known = dict(flatten(config)), field_table()
    with config.unlocked():
        for section in SECTIONS:
            if section not in config:
                config[section] = ConfigDict()
        for name in there:
            if name in known and name not in held:
                section, _, leaf = name.rpartition(".")
                del (config[section] if section else config)[leaf]
        for name, field in held.items():
            if name not in there:
                _set(config, name, field.default)
    return config


def _set(config: ConfigDict, name: str, new: Any) -> None:
    """Set the field of a dotted name."""
    section, _, leaf = name.rpartition(".")
    (config[section] if section else config)[leaf] = new


def with_variant(config: ConfigDict, variant: str, variants: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
    """Apply variants, which are named changes, to a config in place.

    They are applied in the order of `variants`, not in that of the names: a later variant overrides an earlier one, and
    changes to a component that another variant deselects are ignored.

    Args:
        config: The config.
        variant: The names of the variants, separated by commas, such as 'mini,no_fourier'; '' for none.
        variants: The changes of each variant, by dotted field names.

    Returns:
        The same config.

    Raises:
        UserError: If a name is unknown, or if two variants set an exclusive field (`Field.exclusive`) differently.
    """
    names = list(filter(None, variant.split(",")))
    for name in names:
        if name not in variants:
            raise UserError(f"unknown variant {name!r}; {nearest(name, variants)}")
    given, table = dict(flatten(config)), field_table()
    changes: dict[str, Any] = {}
    set_by: dict[str, tuple[str, Any]] = {}
    for name in sorted(names, key=list(variants).index):
        own = renamed(variants[name])
        alone = given | own
        usable = active(alone).keys() | {path for v in variants.values() for path in active(given | renamed(v) | own)}
        for path, new in own.items():
            if path not in usable:
                raise UserError(refused(path, alone))
            other, before = set_by.setdefault(path, (name, new))
            if table[path].exclusive and before != new:
                raise UserError(
                    f"the variants {other!r} and {name!r} exclude each other: config.{path} is {before!r} in one and "
                    f"{new!r} in the other; choose one"
                )
            changes[path] = new
    held = active(given | changes)
    return choose(config, {path: new for path, new in changes.items() if path in held})


def check_names(config: ConfigDict) -> None:
    """Check that a config has exactly the fields of its components.

    Raises:
        UserError: If a field is unknown, missing, or belongs to another component; the sentence names the first.
    """
    given, table = dict(flatten(config)), field_table()
    held = active(given)
    for name in given:
        if name not in table:
            raise UserError(f"unknown config field config.{name}; {nearest_field(name, held)}")
    for name in held:
        if name not in given:
            raise UserError(
                f"config.{name} is missing; start the config from vdm_jax.config.base() and select components with "
                "vdm_jax.config.choose"
            )
    for name in given:
        if name not in held:
            raise UserError(registry.refusal(name, given))


def check(config: ConfigDict) -> None:
    """Check the fields of a config, their values, and the rules of its components.

    Raises:
        UserError: If a field is unknown, missing, or has an illegal value, or if values do not fit together.
    """
    given, table = dict(flatten(config)), field_table()
    held = active(given)
    if given.keys() <= table.keys():  # an illegal selector explains more than missing fields
        for name, field in held.items():
            if name in given and field.choices:
                registry.check_field(name, given[name], field, given)
    check_names(config)
    for name, field in held.items():
        registry.check_field(name, given[name], field, given)
    for component in registry.parts(given):
        if component.check is not None:
            component.check(given)


def from_saved(saved: Mapping[str, Any]) -> ConfigDict:
    """Return the config that a run saved as JSON, with current field names; missing fields have their defaults.

    Raises:
        UserError: If a field is unknown or has an illegal value.
    """
    return choose(base(), values_of(saved))


def fourier_exponents(vocabulary: int) -> tuple[int, int]:
    """Return the exponents (n − 1, n) of the Fourier features with n = log₂V, rounded (VDM §3.4).

    They are 7 and 8 for 256 values, and 3 and 4 for 17 values.
    """
    top = round(math.log2(vocabulary))
    return top - 1, top


def gamma_0_for(vocabulary: int) -> float:
    """Return γ_0 = −13.3 + 2 ln(256/V): the noise, relative to the width of a bin, is that of VDM at 256 values."""
    return -13.3 + 2 * math.log(256 / vocabulary)
