"""Config files: the packaged ones, and loading one with its variants."""

from __future__ import annotations

import importlib.util
import inspect
import pathlib
import re
import traceback
from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import registry
from vdm_jax.config.parts import check_names, choose
from vdm_jax.config.registry import SECTIONS, active, field_table
from vdm_jax.config.saved import flatten
from vdm_jax.errors import UserError
from vdm_jax.fields import most_similar, nearest

_SIMILAR = 0.7  # similarity of names above which one is suggested
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
            raise UserError(f"no config file at {path!r}; {_suggested(file, known)}")
        file = known[path]
    file = file.resolve()
    try:
        get_config = _get_config(file)
        if variant and not inspect.signature(get_config).parameters:
            raise UserError(f"it has no variants, so {variant!r} can't be used")
        config = get_config(variant) if variant else get_config()
        if not isinstance(config, ConfigDict):
            raise UserError("get_config does not return a ConfigDict; start from vdm_jax.config.base() and return it")
        if variant and _ignores(get_config, variant, config):
            raise UserError(
                f"get_config ignores the variant {variant!r}; leave it out, or use vdm_jax.config.with_variant"
            )
        _settle(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:  # a config file is a program, and may fail in any way
        raise UserError(f"{path}: {_what_failed(error, file)}") from error
    return config.lock()


def _suggested(file: pathlib.Path, known: Iterable[str]) -> str:
    """Suggest the packaged config whose name, without folder and suffix, is similar to that of a file."""
    stems = {pathlib.Path(name).stem: name for name in known}
    if not stems:
        return "write one, starting from vdm_jax.config.base()"
    best, _ = most_similar(file.stem, list(stems))
    if SequenceMatcher(None, file.stem, best).ratio() >= _SIMILAR:
        return f"did you mean {stems[best]!r}?"
    return f"give its path, or one of the package's: {', '.join(stems)} (as in {stems[best]!r})"


def _ignores(get_config: Callable[..., Any], variant: str, config: ConfigDict) -> bool:
    """Return whether a config is the same without its variant, and a variant of another name is not refused."""
    if config.to_dict() != get_config().to_dict():
        return False
    try:
        get_config(f"not_{variant}")
    except Exception:  # of any kind; it knows its variants
        return False
    return True


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


def _what_failed(error: BaseException, file: pathlib.Path) -> str:
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
    elif isinstance(error, SystemExit):
        what = f"it ends the program (exit status {error.code}); let get_config return a config instead"
    else:
        what = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return f"line {line}: {what}" if line else what
