"""Configs as runs keep them: read on today's fields, and compared with the config that is to go on.

vdm_jax 0.1.0 wrote all fields of all methods. Those that the parts of a config do not have are dropped if nothing is
lost by it (they are at that version's default, or say how to look at a model, not what it is), and refused otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import layouts, registry
from vdm_jax.errors import UserError
from vdm_jax.fields import Field, check_value


def flatten(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """('section.field', value) of every leaf; tuples for lists, so that JSON compares equal."""
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", tuple(value) if isinstance(value, list | tuple) else value


def renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields under their names of today."""
    return {layouts.ALIASES.get(name, name): value for name, value in given.items()}


def read(saved: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Field]]:
    """A config as JSON keeps it → (its values, the fields that it holds); unknown fields stay among the values.

    Raises UserError for a field of 0.1.0 that no part of the config has and whose value would be lost.
    """
    values, table = renamed(dict(flatten(saved))), registry.field_table()
    held = registry.active(values)
    for name in [name for name in values if name in table and name not in held]:
        value = values.pop(name)
        unused = (layouts.DEFAULTS.get(name, table[name].default), *layouts.UNUSED.get(name, ()))
        if value not in unused and not table[name].resume:
            raise UserError(
                f"the saved config is of vdm_jax 0.1.0, which wrote the field {name}={value!r} and read it nowhere: "
                f"{registry.refusal(name, values)}; take it out of config.json"
            )
    return values, held


def values_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The values that `from_saved` takes. Raises UserError for a field that is unknown or has an illegal value."""
    values, held = read(saved)
    for name, value in values.items():
        if name not in held:
            raise UserError(f"the saved config has the field {name}, which this version does not know")
        check_value(name, value, registry.field_table()[name]._replace(choices=_choices(name)))
    return values


def _choices(name: str) -> tuple[Any, ...]:
    """Of a field in any part; `check` holds a config against those of its own."""
    parts = [component.fields[name].choices for component in registry.COMPONENTS if name in component.fields]
    return tuple(dict.fromkeys(choice for choices in parts for choice in choices))


def differences(saved: Mapping[str, Any], config: ConfigDict) -> list[str]:
    """Fields that differ and may not change on resume, as 'name: saved → now'.

    A field that the saved config lacks is newer than it and had its default. Of parts that only one of the two has,
    the choice between them is what differs.
    """
    before, held = read(saved)
    now = dict(flatten(config))
    ours = registry.active(now)
    before = {name: field.default for name, field in held.items()} | before
    alone = (held.keys() ^ ours.keys()) & registry.field_table().keys()
    return [
        f"{name}: {before.get(name)!r} → {now.get(name)!r}"
        for name in sorted((before.keys() | now.keys()) - alone)
        if before.get(name) != now.get(name) and not (name in ours and ours[name].resume)
    ]
