"""Configs: the defaults of every field, variants, files by name, and the check all of them pass.

A config file starts from `base()`, sets what differs and returns it; `check` holds every config
against the table in `fields.py` before anything is compiled or written. Variants are named changes:

    def get_config(variant: str = "") -> ConfigDict:
        config = base()
        ...
        return with_variant(config, variant, {"mini": {"training.num_steps": 100}})
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import pathlib
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from vdm_jax import consistency
from vdm_jax.errors import UserError
from vdm_jax.fields import FIELDS, Field, check_value, field_table, nearest, nearest_field

__all__ = [
    "FIELDS",
    "Field",
    "base",
    "check",
    "differences",
    "field_table",
    "flatten",
    "fourier_exponents",
    "from_saved",
    "gamma_0_for",
    "load",
    "nearest",
    "with_variant",
]


def base() -> ConfigDict:
    """The defaults of every field, as a locked ConfigDict."""
    config = ConfigDict()
    for section, fields in FIELDS.items():
        values = {name: field.default for name, field in fields.items()}
        if section:
            config[section] = ConfigDict(values)
        else:
            config.update(values)
    return config.lock()


def flatten(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """('section.field', value) of every leaf; tuples for lists, so that JSON compares equal."""
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", tuple(value) if isinstance(value, list | tuple) else value


# What two variants of a config cannot both decide; other fields are the later one's.
_EXCLUSIVE = ("method", "schedule.kind", "schedule.num_timesteps", "training.weighting", "model.prediction")


def with_variant(config: ConfigDict, variant: str, variants: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
    """Apply the named changes; several with commas: 'mini,no_fourier'.

    They are applied in the order of `variants`, however they are named: a later one changes what an earlier one set.
    Raises UserError for a name that is unknown, or if two make different models (`_EXCLUSIVE`).
    """
    names = list(filter(None, variant.split(",")))
    for name in names:
        if name not in variants:
            raise UserError(f"unknown variant {name!r}; {nearest(name, variants)}")
    set_by: dict[str, str] = {}
    for name in sorted(names, key=list(variants).index):
        for path, value in variants[name].items():
            other = set_by.setdefault(path, name)
            if path in _EXCLUSIVE and variants[other][path] != value:
                raise UserError(
                    f"the variants {other!r} and {name!r} exclude each other: config.{path} is "
                    f"{variants[other][path]!r} in one and {value!r} in the other; choose one"
                )
            _set(config, path, value)
    return config


def _set(config: ConfigDict, name: str, value: Any) -> None:
    section, _, leaf = name.rpartition(".")
    (config[section] if section else config)[leaf] = value


def check_names(config: ConfigDict) -> None:
    """Raise UserError naming the first field that is unknown or missing."""
    table, given = field_table(), dict(flatten(config))
    for name in given:
        if name not in table:
            raise UserError(f"unknown config field config.{name}; {nearest_field(name)}")
    for name in table:
        if name not in given:
            raise UserError(f"config.{name} is missing; start the config from vdm_jax.config.base()")


def check(config: ConfigDict) -> None:
    """Raise UserError naming the first field that is unknown, missing, or has an illegal value."""
    check_names(config)
    given = dict(flatten(config))
    for name, field in field_table().items():
        check_value(name, given[name], field)
    consistency.check(given)


def differences(saved: Mapping[str, Any], config: ConfigDict) -> list[str]:
    """Fields that differ and may not change on resume, as 'name: saved → now'.

    A field that the saved config lacks is newer than it and had its default.
    """
    table, now = field_table(), dict(flatten(config))
    before = {name: field.default for name, field in table.items()} | dict(flatten(saved))
    return [
        f"{name}: {before.get(name)!r} → {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not (name in table and table[name].resume)
    ]


def from_saved(saved: Mapping[str, Any]) -> ConfigDict:
    """A config as JSON keeps it → ConfigDict on today's fields; fields it lacks have defaults."""
    config, table = base(), field_table()
    for name, value in flatten(saved):
        if name not in table:
            raise UserError(f"the saved config has the field {name}, which this version does not know")
        check_value(name, value, table[name])
        _set(config, name, value)
    return config


def fourier_exponents(vocabulary: int) -> tuple[int, int]:
    """(n − 1, n) with n = log₂V, rounded: 7 and 8 for bytes, 3 and 4 for 17 levels (VDM §5.2)."""
    top = round(math.log2(vocabulary))
    return top - 1, top


def gamma_0_for(vocabulary: int) -> float:
    """−13.3 + 2 ln(256/V): the same noise relative to the width of a bin as VDM's for bytes."""
    return -13.3 + 2 * math.log(256 / vocabulary)


_PACKAGE = pathlib.Path(__file__).resolve().parent


def packaged() -> dict[str, pathlib.Path]:
    """'configs/digits.py' → file, of the installed package or of the checkout around it."""
    folder = next((f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if f.is_dir()), None)
    files = sorted(folder.glob("*.py")) if folder else []
    return {f"configs/{f.name}": f for f in files if not f.name.startswith("_")}


def load(name: str) -> ConfigDict:
    """The config of 'PATH' or 'PATH:variants', PATH from here or else one of the package's.

    Its fields are those of `base()`; their values are still to be checked.
    """
    path, _, variant = name.partition(":")
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        known = packaged()
        if path not in known:
            raise UserError(f"no config file at {path!r}; {nearest(path, known)}")
        file = known[path]
    file = file.resolve()
    try:
        get_config = _get_config(file)
        if variant and not inspect.signature(get_config).parameters:
            raise UserError(f"it has no variants, so {variant!r} is none of them")
        config = get_config(variant) if variant else get_config()
        if not isinstance(config, ConfigDict):
            raise UserError("get_config does not return a ConfigDict; start from vdm_jax.config.base() and return it")
        check_names(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # a config file is a program, and may fail in any way
        raise UserError(f"{path}: {_what_failed(error, file)}") from error
    return config.lock()


def _get_config(file: pathlib.Path) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(f"vdm_jax_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError("not a Python file; its name ends in .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError("defines no function get_config")
    return module.get_config


def _what_failed(error: Exception, file: pathlib.Path) -> str:
    """'line 7: …' of a config file; for a field that base() lacks, the nearest."""
    unknown = re.match(r"['\"]*Key \"(\w+)\" does not exist", str(error))
    if unknown:
        leaves = [name.rpartition(".")[2] for name in field_table()]
        what = f"unknown config field {unknown[1]!r}; {nearest(unknown[1], dict.fromkeys([*leaves, *FIELDS]))}"
    else:
        what = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return f"line {line}: {what}" if line else what
