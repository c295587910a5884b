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
            raise UserError(_refused(name, values))
    _reshaped(config, held)
    for name, new in changes.items():
        _set(config, name, new)
    return config


def _refused(name: str, values: Mapping[str, Any]) -> str:
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
    """Return the exponents (n − 1, n) of the Fourier features with n = log₂V, rounded (VDM §5.2).

    They are 7 and 8 for 256 values, and 3 and 4 for 17 values.
    """
    top = round(math.log2(vocabulary))
    return top - 1, top


def gamma_0_for(vocabulary: int) -> float:
    """Return γ_0 = −13.3 + 2 ln(256/V): the noise, relative to the width of a bin, is that of VDM at 256 values."""
    return -13.3 + 2 * math.log(256 / vocabulary)


_PACKAGE = pathlib.Path(__file__).resolve().parent.parent


def packaged() -> dict[str, pathlib.Path]:
    """Return the config files of the installed package, or of its checkout, by names such as 'configs/digits.py'."""
    folder = next((f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if f.is_dir()), None)
    files = sorted(folder.glob("*.py")) if folder else []
    return {f"configs/{f.name}": f for f in files if not f.name.startswith("_")}


def load(name: str) -> ConfigDict:
    """Load the config of 'PATH' or 'PATH:variants'; PATH is a file or the name of one of the package's configs.

    The result has exactly the fields of its components; `check` validates their values.

    Raises:
        UserError: If the file does not exist, fails, or returns something other than a config.
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
            raise UserError(f"it has no variants, so {variant!r} can't be used")
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
    """Give a config whose file selected components by assignment the fields of these components.

    Fields of other components are removed if they have their defaults.

    Raises:
        UserError: If such a field has another value, or if `check_names` fails.
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
    """Import a config file and return its function `get_config`."""
    spec = importlib.util.spec_from_file_location(f"vdm_jax_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError("not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError("defines no function get_config")
    return module.get_config


def _what_failed(error: Exception, file: pathlib.Path) -> str:
    """Describe an exception of a config file with its line, and suggest the nearest name for an unknown field."""
    unknown = re.match(r"['\"]*Key \"(\w+)\" does not exist", str(error))
    if unknown:
        named = [name for name in field_table() if name.rpartition(".")[2] == unknown[1]]
        leaves = [name.rpartition(".")[2] for name in field_table()]
        what = (
            f"config.{named[0]} belongs to a component that is not selected there; select it with vdm_jax.config.choose"
            if named
            else f"unknown config field {unknown[1]!r}; {nearest(unknown[1], dict.fromkeys([*leaves, *SECTIONS]))}"
        )
    else:
        what = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return f"line {line}: {what}" if line else what
