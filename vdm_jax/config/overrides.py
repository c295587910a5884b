"""Fields of a config on the command line: --config.section.field=value, and the list of all fields with their help."""

from __future__ import annotations

import re
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from vdm_jax import config as configs
from vdm_jax.config import layouts, registry
from vdm_jax.errors import UserError

_OVERRIDE = re.compile(r"--?(no)?config\.([^=]*)")


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate overrides from other arguments; '--config.model.width 64' becomes '--config.model.width=64'."""
    overrides: list[str] = []
    rest: list[str] = []
    table = configs.field_table()
    value_follows = False
    for argument in arguments:
        matched = _OVERRIDE.match(argument)
        if matched:
            overrides.append(argument)
            field = table.get(layouts.ALIASES.get(matched[2], matched[2]))
            value_follows = "=" not in argument and not (field and isinstance(field.default, bool))
        elif value_follows:
            overrides[-1] += f"={argument}"
            value_follows = False
        else:
            rest.append(argument)
    return overrides, rest


def apply(config: ConfigDict, overrides: Sequence[str]) -> None:
    """Set the overridden fields of a config in place, those that choose parts of the config first.

    Args:
      config: the config.
      overrides: arguments such as '--config.section.field=value'; ml_collections parses the values.

    Raises:
      UserError: a field is unknown or belongs to a part that the config does not have, or a value has another type.
    """
    arguments = [_renamed(argument) for argument in overrides]
    names = [_field_of(argument, config) for argument in arguments]
    parsed, values = configs.everything(), flags.FlagValues()
    argv = ["", *arguments]
    try:
        config_flags.DEFINE_config_dict("config", parsed, flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, ValueError, TypeError) as error:
        said = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
        if said is None:
            raise UserError(" ".join(str(error).split())) from error
        field = configs.field_table()[said[1]]
        kind = type(field.default).__name__
        raise UserError(f"config.{said[1]}={said[2]} is not of type {kind}: {field.help}") from error
    new = dict(configs.flatten(parsed))
    configs.choose(config, {name: new[name] for name in names})


def fields(overrides: Sequence[str]) -> list[str]:
    """Return the fields 'section.field' that overrides set, by their current names."""
    matches = [_OVERRIDE.match(_renamed(argument)) for argument in overrides]
    return [matched[2] for matched in matches if matched]


def _renamed(argument: str) -> str:
    """The argument with the current name of its field."""
    matched = _OVERRIDE.match(argument)
    if not matched or matched[2] not in layouts.ALIASES:
        return argument
    return f"{argument[: matched.start(2)]}{layouts.ALIASES[matched[2]]}{argument[matched.end(2) :]}"


def _field_of(argument: str, config: ConfigDict) -> str:
    """The field that an override sets. Raises UserError for a section or an unknown field."""
    matched, table = _OVERRIDE.match(argument), configs.field_table()
    name = matched[2] if matched else argument
    held = configs.active(dict(configs.flatten(config)))
    if name in registry.SECTIONS:
        inside = [field for field in (*held, *table) if field.startswith(f"{name}.")]
        raise UserError(f"config.{name} is a section; set one of its fields, such as config.{inside[0]}")
    if name not in table:
        raise UserError(f"unknown config field config.{name}; {configs.nearest_field(name, held)}")
    return name


def describe(config: ConfigDict) -> str:
    """List the fields of a config by section, one per line, with value, help and legal values."""
    values, lines = dict(configs.flatten(config)), []
    section = None
    for name, field in configs.active(values).items():
        if (now := name.rpartition(".")[0]) != section:
            section = now
            lines += ["", f"{section}:"] if section else []
        legal = f"one of {', '.join(map(repr, field.choices))}" if field.choices else ""
        low = f"at least {field.low:g}" if field.low is not None else ""
        high = f"at most {field.high:g}" if field.high is not None else ""
        notes = [note for note in (legal, low, high, "may change on resume" if field.resume else "") if note]
        about = f" ({'; '.join(notes)})" if notes else ""
        lines.append(f"  --config.{name}={values[name]!r}: {field.help}{about}")
    return "\n".join(lines)
