"""Saved configs of runs: reading them with current field names, and comparing them with the config of a resumed run.

vdm_jax 0.1.0 wrote all fields of all methods. Fields of other components are dropped if no information is lost: if
they have that version's default, or may change on resume. Otherwise the config is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import layouts, registry
from vdm_jax.errors import UserError
from vdm_jax.fields import Field, check_value

_SHOWN, _LONGEST = 3, 80  # differences that a message lists, and characters of each


def flatten(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ('section.field', value) for every leaf; lists become tuples, so that values from JSON compare equal."""
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", tuple(value) if isinstance(value, list | tuple) else value


def renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields under their current names, with the current spelling of their values."""
    now = {layouts.ALIASES.get(name, name): value for name, value in given.items()}
    for name, values in layouts.VALUES.items():
        if name in now and isinstance(now[name], str):
            now[name] = values.get(now[name], now[name])
    return now


def read(saved: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Field]]:
    """Read a config from its JSON form.

    Returns:
        The values, including those of unknown fields, and the fields of the selected components.

    Raises:
        UserError: If a field of 0.1.0 belongs to no component of the config and its value would be lost.
    """
    values, table = renamed(dict(flatten(saved))), registry.field_table()
    held = registry.active(values)
    for name in [name for name in values if name in table and name not in held]:
        value = values.pop(name)
        unused = (layouts.DEFAULTS.get(name, table[name].default), *layouts.UNUSED.get(name, ()))
        if value not in unused and not table[name].resume:
            raise UserError(
                f"the saved config is of vdm_jax 0.1.0, which wrote the field {name}={value!r} without using it: "
                f"{registry.refusal(name, values)}; remove it from config.json"
            )
    return values, held


def values_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a saved config for `from_saved`.

    Raises:
        UserError: If a field is unknown or has an illegal value.
    """
    values, held = read(saved)
    for name, value in values.items():
        if name not in held:
            raise UserError(f"the saved config has the field {name}, which this version does not know")
        check_value(name, value, registry.field_table()[name]._replace(choices=_choices(name)))
    return values


def _choices(name: str) -> tuple[Any, ...]:
    """Return the choices of a field in any component; `check` uses those of the selected component."""
    parts = [component.fields[name].choices for component in registry.COMPONENTS if name in component.fields]
    return tuple(dict.fromkeys(choice for choices in parts for choice in choices))


def brief(changed: Sequence[str]) -> str:
    """Join the differences of two configs: the first three, each shortened, and the number of the others."""
    shown = [d if len(d) <= _LONGEST else f"{d[: _LONGEST - 1]}…" for d in changed[:_SHOWN]]
    more = len(changed) - len(shown)
    return "; ".join(shown) + (f"; and {more} more field{'s' * (more > 1)}" if more else "")


def differences(saved: Mapping[str, Any], config: ConfigDict) -> list[str]:
    """List the fields that differ and may not change on resume, as 'name: saved → now'.

    A field that the saved config lacks was added later and counts as its default. If only one of the two configs has a
    component, the difference is in the field that selects it, not in the component's fields.
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
