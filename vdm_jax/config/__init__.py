"""Configs: the parts they are made of, variants, files by name, and the check all of them pass.

A config holds the fields of its parts and no others: of its method, network, schedule, sampler and so on, which are
chosen by fields themselves (`method`, `model.network`, `schedule.kind`, …). A config file starts from `base()`, a VDM,
chooses parts by `choose`, sets what differs and returns it; `check` holds every config against what the parts declare
before anything is compiled or written. Variants are named changes:

    def get_config(variant: str = "") -> ConfigDict:
        config = choose(base(), {"method": "sde", "schedule.kind": "ve_sde"})
        config.schedule.sigma_max = 90.0
        return with_variant(config, variant, {"mini": {"training.num_steps": 100}})
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import pathlib
import re
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import registry
from vdm_jax.config.registry import SECTIONS, active, field_table, nearest_field
from vdm_jax.config.saved import differences, flatten, renamed, values_of
from vdm_jax.errors import UserError
from vdm_jax.fields import Field, nearest, value

__all__ = [
    "Field",
    "active",
    "base",
    "check",
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
    "value",
    "with_variant",
]


def base() -> ConfigDict:
    """A VDM on digits at the defaults of its fields, as a locked ConfigDict."""
    return _reshaped(ConfigDict(), active({})).lock()


def everything() -> ConfigDict:
    """Every field of every part at its default, which is no config: for parsing values by their types."""
    return _reshaped(ConfigDict(), field_table()).lock()


def choose(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Set fields by dotted names, those that choose parts before the others, whatever their order; in place.

    The fields of parts that come in have their defaults unless they are among the changes; those of parts that go out
    are dropped, and a field that both have keeps its value. Returns the config. Raises UserError for a field that the
    parts do not have.
    """
    changes = renamed(changes)
    values = dict(flatten(config)) | changes
    held = active(values)
    for name in changes:
        if name not in held:
            raise UserError(_refused(name, values))
    _reshaped(config, held)
    for name, new in changes.items():
        _set(config, name, new)
    return config


def _refused(name: str, values: Mapping[str, Any]) -> str:
    """Why there is no such field; UserError if that is for a value that chooses no part that goes with the others."""
    if name not in field_table():
        return f"unknown config field config.{name}; {nearest_field(name, active(values))}"
    for other, field in active(values).items():
        if field.choices and other in values:
            registry.check_field(other, values[other], field, values)
    return registry.refusal(name, values)


def _reshaped(config: ConfigDict, held: Mapping[str, Field]) -> ConfigDict:
    """The config with these fields: what is new has its default, what else some part has is dropped; in place."""
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
    section, _, leaf = name.rpartition(".")
    (config[section] if section else config)[leaf] = new


def with_variant(config: ConfigDict, variant: str, variants: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
    """Apply the named changes; several with commas: 'mini,no_fourier'.

    They are applied in the order of `variants`, however they are named: a later one changes what an earlier one set,
    and what one says of a part that another puts out of use falls away.
    Raises UserError for a name that is unknown, or if two make different models (exclusive fields).
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
                raise UserError(_refused(path, alone))
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
    """Raise UserError naming the first field that is unknown, missing, or of no part of the config."""
    given, table = dict(flatten(config)), field_table()
    held = active(given)
    for name in given:
        if name not in table:
            raise UserError(f"unknown config field config.{name}; {nearest_field(name, held)}")
    for name in held:
        if name not in given:
            raise UserError(
                f"config.{name} is missing; start the config from vdm_jax.config.base() and choose parts by "
                "vdm_jax.config.choose"
            )
    for name in given:
        if name not in held:
            raise UserError(registry.refusal(name, given))


def check(config: ConfigDict) -> None:
    """Raise UserError naming the first field that is unknown, missing, or has an illegal value."""
    given, table = dict(flatten(config)), field_table()
    held = active(given)
    if given.keys() <= table.keys():  # an illegal choice of a part explains more than the fields it lacks
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
    """A config as JSON keeps it → ConfigDict on today's fields; fields it lacks have defaults."""
    return choose(base(), values_of(saved))


def fourier_exponents(vocabulary: int) -> tuple[int, int]:
    """(n − 1, n) with n = log₂V, rounded: 7 and 8 for bytes, 3 and 4 for 17 levels (VDM §5.2)."""
    top = round(math.log2(vocabulary))
    return top - 1, top


def gamma_0_for(vocabulary: int) -> float:
    """−13.3 + 2 ln(256/V): the same noise relative to the width of a bin as VDM's for bytes."""
    return -13.3 + 2 * math.log(256 / vocabulary)


_PACKAGE = pathlib.Path(__file__).resolve().parent.parent


def packaged() -> dict[str, pathlib.Path]:
    """'configs/digits.py' → file, of the installed package or of the checkout around it."""
    folder = next((f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if f.is_dir()), None)
    files = sorted(folder.glob("*.py")) if folder else []
    return {f"configs/{f.name}": f for f in files if not f.name.startswith("_")}


def load(name: str) -> ConfigDict:
    """The config of 'PATH' or 'PATH:variants', PATH from here or else one of the package's.

    It holds the fields of its parts; their values are still to be checked.
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
        _settle(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # a config file is a program, and may fail in any way
        raise UserError(f"{path}: {_what_failed(error, file)}") from error
    return config.lock()


def _settle(config: ConfigDict) -> None:
    """Let a config hold the fields of its parts, if a file has chosen them by assignment; what it did not set may go.

    Raises UserError as `check_names`.
    """
    given, table = dict(flatten(config)), field_table()
    held = active(given)
    if "method" in given and given.keys() <= table.keys():
        for name in given:
            if name not in held and given[name] != table[name].default:
                raise UserError(registry.refusal(name, given))
        choose(config, {})
    check_names(config)


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
    """'line 7: …' of a config file; for a field that the config lacks, the nearest."""
    unknown = re.match(r"['\"]*Key \"(\w+)\" does not exist", str(error))
    if unknown:
        named = [name for name in field_table() if name.rpartition(".")[2] == unknown[1]]
        leaves = [name.rpartition(".")[2] for name in field_table()]
        what = (
            f"config.{named[0]} is of a part that the config has not chosen there; choose that by vdm_jax.config.choose"
            if named
            else f"unknown config field {unknown[1]!r}; {nearest(unknown[1], dict.fromkeys([*leaves, *SECTIONS]))}"
        )
    else:
        what = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return f"line {line}: {what}" if line else what
