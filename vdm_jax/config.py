"""Every field a config may have: its default, its legal values, whether it may change on resume.

A config file starts from `base()`, sets what differs and returns it; `check` holds every config
against the table below before anything is compiled or written. Variants are named changes:

    def get_config(variant: str = "") -> ConfigDict:
        config = base()
        ...
        return with_variant(config, variant, {"mini": {"training.num_steps": 100}})
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vdm_jax.errors import UserError


class Field(NamedTuple):
    """default; what it does; legal values or bounds; whether a resumed run may change it."""

    default: Any
    help: str
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    resume: bool = False


_ANY_TIME = True

FIELDS: dict[str, dict[str, Field]] = {
    "": {
        "method": Field("vdm", "the paper", ("vdm",)),
    },
    "data": {
        "name": Field("digits", "a data set of vdm_jax.data"),
        "path": Field("", "where it lies, for those read from a path", resume=_ANY_TIME),
        "shape": Field((8, 8, 1), "one example: (height, width, channels) or (dimensions,)"),
        "vocabulary": Field(17, "number of levels of a value; 0 for continuous data", low=0),
        "batch_size": Field(64, "images per step over all devices", low=1),
        "augment": Field((), "of 'flip', 'rot90', 'channels'", ("flip", "rot90", "channels")),
        "split": Field("train", "what to train on; 'fit' leaves out 'tune'", ("train", "fit")),
        "threads": Field(4, "threads that read and decode", low=0, resume=_ANY_TIME),
    },
    "model": {
        "network": Field("unet", "the score network", ("unet", "mlp")),
        "width": Field(64, "channels n", low=1),
        "depth": Field(4, "blocks L on each side", low=1),
        "fourier": Field((7, 8), "exponents n of the features sin, cos(2^n pi z); () for none"),
        "attention": Field(False, "attention after every block, not only in the middle"),
        "dropout": Field(0.0, "dropout rate", low=0.0, high=0.99),
        "groups": Field(32, "groups of the group norms; divides the width", low=1),
        "prediction": Field("eps", "what the network predicts", ("eps", "x", "v")),
        "dtype": Field("float32", "dtype of the computation", ("float32", "bfloat16"), resume=_ANY_TIME),
        "remat": Field(False, "recompute blocks in the backward pass", resume=_ANY_TIME),
        "unroll": Field(1, "blocks in one loop body", low=1, resume=_ANY_TIME),
    },
    "schedule": {
        "kind": Field(
            "learned_scalar",
            "gamma(t)",
            ("linear", "cosine", "learned_scalar", "learned_monotone"),
        ),
        "gamma_0": Field(-13.3, "gamma(0) at the start of training", low=-30, high=10),
        "gamma_1": Field(5.0, "gamma(1) at the start of training", low=-10, high=30),
        "features": Field(1024, "hidden units of the monotone network", low=1),
        "minimise_variance": Field(False, "the path follows the gradient of E[L^2] (VDM, I.2)"),
    },
    "training": {
        "seed": Field(1, "of parameters, data order, times and noise", low=0),
        "num_steps": Field(1000, "steps", low=1, resume=_ANY_TIME),
        "num_timesteps": Field(0, "T of the trained bound; 0 for continuous time", low=0),
        "times": Field("stratified", "how t is drawn", ("stratified", "independent")),
        "weighting": Field("vlb", "weights of the diffusion loss", ("vlb", "simple")),
        "log_every": Field(50, "steps between lines of metrics", low=1, resume=_ANY_TIME),
        "eval_every": Field(0, "steps between evaluations; 0 only at the end", low=0, resume=_ANY_TIME),
        "eval_examples": Field(0, "examples of those evaluations; 0 for all", low=0, resume=_ANY_TIME),
        "checkpoint_every": Field(1000, "steps between checkpoints", low=1, resume=_ANY_TIME),
        "keep": Field(3, "checkpoints kept", low=1, resume=_ANY_TIME),
        "sample_every": Field(0, "steps between sample grids; 0 only at the end", low=0, resume=_ANY_TIME),
        "parallelism": Field("jit", "how the step is run on many devices", ("jit",), resume=_ANY_TIME),
    },
    "optimizer": {
        "learning_rate": Field(2e-4, "peak learning rate", low=0.0),
        "schedule_learning_rate": Field(0.0, "of the schedule's leaves; 0 for the learning rate", low=0.0),
        "warmup_steps": Field(100, "steps of linear warm-up", low=0),
        "decay": Field("constant", "after the warm-up, over num_steps", ("constant", "cosine")),
        "b1": Field(0.9, "Adam beta 1", low=0.0, high=0.9999),
        "b2": Field(0.99, "Adam beta 2", low=0.0, high=0.99999),
        "eps": Field(1e-8, "Adam epsilon", low=0.0),
        "weight_decay": Field(0.01, "of kernels, decoupled", low=0.0),
        "clip": Field(1.0, "largest joint norm of the network's gradient; 0 for no clipping", low=0.0),
        "ema": Field(0.9999, "decay of the averaged weights, warmed up as (1 + n)/(10 + n)", low=0.0, high=0.999999),
    },
    "sampling": {
        "sampler": Field("ancestral", "the reverse step", ("ancestral", "ddim", "euler", "heun"), resume=_ANY_TIME),
        "num_steps": Field(250, "steps of the sampler", low=1, resume=_ANY_TIME),
        "eta": Field(0.0, "noise of DDIM: 0 none, 1 ancestral", low=0.0, high=1.0, resume=_ANY_TIME),
        "clip": Field(False, "clip the predicted x to [-1, 1]", resume=_ANY_TIME),
        "draw": Field(False, "draw from p(x|z_0), not its most likely level", resume=_ANY_TIME),
        "num_images": Field(64, "images", low=1, resume=_ANY_TIME),
        "batch_size": Field(64, "images at a time", low=1, resume=_ANY_TIME),
        "seed": Field(0, "of the noise", low=0, resume=_ANY_TIME),
    },
    "evaluation": {
        "estimator": Field("vlb", "of the likelihood", ("vlb", "ode"), resume=_ANY_TIME),
        "num_timesteps": Field(0, "T of the evaluated bound; 0 for continuous time", low=0, resume=_ANY_TIME),
        "split": Field("test", "what to evaluate on", ("test", "tune", "fit", "train"), resume=_ANY_TIME),
        "examples": Field(0, "the first so many of the split; 0 for all", low=0, resume=_ANY_TIME),
        "passes": Field(4, "passes with new times and noise", low=1, resume=_ANY_TIME),
        "batch_size": Field(64, "examples at a time", low=1, resume=_ANY_TIME),
        "seed": Field(0, "of times and noise", low=0, resume=_ANY_TIME),
        "weights": Field("ema", "which weights", ("ema", "raw"), resume=_ANY_TIME),
        "tolerance": Field(1e-5, "relative tolerance of the ODE solver", low=1e-12, high=0.1, resume=_ANY_TIME),
        "divergence": Field(
            "auto",
            "of the flow: exact up to 64 dimensions, else Hutchinson's",
            ("auto", "exact", "hutchinson"),
            resume=_ANY_TIME,
        ),
    },
}


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


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """('section.field', value) of every leaf; tuples for lists, so that JSON compares equal."""
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", tuple(value) if isinstance(value, list | tuple) else value


def field_table() -> dict[str, Field]:
    """Every field by its dotted name."""
    return {
        f"{section}.{name}" if section else name: field
        for section, fields in FIELDS.items()
        for name, field in fields.items()
    }


def nearest(name: str, known: Any) -> str:
    """'; did you mean X?' with the nearest of the known names, or the whole list."""
    known = [str(k) for k in known]
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def with_variant(config: ConfigDict, variant: str, variants: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
    """Apply the named changes; several with commas: 'mini,no_fourier'."""
    for name in filter(None, variant.split(",")):
        if name not in variants:
            raise UserError(f"unknown variant {name!r} of this config; {nearest(name, variants)}")
        for path, value in variants[name].items():
            section, _, leaf = path.rpartition(".")
            (config[section] if section else config)[leaf] = value
    return config


def check(config: ConfigDict) -> None:
    """Raise UserError naming the first field that is unknown, missing, or has an illegal value."""
    table = field_table()
    given = dict(flatten(config))
    for name in given:
        if name not in table:
            raise UserError(f"unknown config field config.{name}; {nearest(name, table)}")
    for name, field in table.items():
        if name not in given:
            raise UserError(f"config.{name} is missing; start the config from vdm_jax.config.base()")
        _check_value(name, given[name], field)
    _check_together(given)


def _check_value(name: str, value: Any, field: Field) -> None:
    kind = type(field.default)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (isinstance(value, kind) or (kind is float and number)) or (kind is int and isinstance(value, bool)):
        raise UserError(f"config.{name}={value!r} is not of type {kind.__name__}: {field.help}")
    for item in value if kind is tuple else (value,):
        if field.choices and item not in field.choices:
            raise UserError(
                f"config.{name}={item!r} is not one of {', '.join(map(str, field.choices))}; "
                f"{nearest(str(item), field.choices)}"
            )
    for bound, wrong, word in (
        (field.low, lambda a, b: a < b, "at least"),
        (field.high, lambda a, b: a > b, "at most"),
    ):
        if bound is not None and wrong(value, bound):
            raise UserError(f"config.{name}={value!r} must be {word} {bound}: {field.help}")


def _check_together(given: Mapping[str, Any]) -> None:
    """What one field demands of another."""

    def demand(holds: bool, sentence: str) -> None:
        if not holds:
            raise UserError(sentence)

    learned = given["schedule.kind"].startswith("learned")
    width, groups = given["model.width"], given["model.groups"]
    images = given["model.network"] == "unet"
    demand(
        given["schedule.gamma_0"] < given["schedule.gamma_1"],
        "config.schedule.gamma_0 must lie below config.schedule.gamma_1: noise grows with t",
    )
    demand(
        not images or (width % groups == 0 and width % 2 == 0),
        f"config.model.groups={groups} must divide config.model.width={width}, an even number; "
        f"try config.model.groups={_divisor(width, groups)}",
    )
    demand(
        len(given["data.shape"]) == (3 if images else 1),
        f"config.data.shape={given['data.shape']} does not suit config.model.network="
        f"{given['model.network']!r}: 'unet' takes (height, width, channels), 'mlp' (dimensions,)",
    )
    demand(
        given["training.weighting"] == "vlb" or not learned,
        "config.training.weighting='simple' is no bound, so it cannot train a schedule; "
        "set config.schedule.kind to 'linear' or 'cosine'",
    )
    demand(
        not given["schedule.minimise_variance"] or given["schedule.kind"] == "learned_monotone",
        "config.schedule.minimise_variance needs a path to move; set config.schedule.kind='learned_monotone'",
    )
    demand(
        not given["schedule.minimise_variance"] or given["training.num_timesteps"] == 0,
        "config.schedule.minimise_variance needs config.training.num_timesteps=0: "
        "at finite T the bound itself depends on the path",
    )


def _divisor(width: int, groups: int) -> int:
    return max(g for g in range(1, min(width, groups) + 1) if width % g == 0)


def differences(saved: Mapping[str, Any], config: ConfigDict) -> list[str]:
    """Fields that differ and may not change on resume, as 'name: saved → now'."""
    table, before, now = field_table(), dict(flatten(saved)), dict(flatten(config))
    return [
        f"{name}: {before.get(name)!r} → {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not (name in table and table[name].resume)
    ]


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


def locate(argument: str) -> str:
    """`--config=PATH[:variant]` with PATH from here, else from the package; other arguments pass."""
    if not argument.startswith("--config="):
        return argument
    path, colon, variant = argument.removeprefix("--config=").partition(":")
    known = packaged()
    if not pathlib.Path(path).is_file():
        if path not in known:
            raise UserError(f"no config at {path!r}; {nearest(path, known)}")
        path = str(known[path])
    return f"--config={path}{colon}{variant}"


def explain_unknown(argv: Sequence[str], fallback: str) -> str:
    """The first override in argv that names no field, with the nearest that exists."""
    table = field_table()
    for argument in argv:
        name = argument.removeprefix("--config.").partition("=")[0]
        if argument.startswith("--config.") and name not in table:
            return f"config.{name}; {nearest(name, table)}"
    return fallback.strip().splitlines()[0]


def from_saved(saved: Mapping[str, Any]) -> ConfigDict:
    """A config as JSON keeps it → ConfigDict on today's fields; fields it lacks have defaults."""
    config = base()
    table = field_table()
    for name, value in flatten(saved):
        if name not in table:
            raise UserError(f"the saved config has the field {name}, which this version does not know")
        section, _, leaf = name.rpartition(".")
        (config[section] if section else config)[leaf] = value
    return config


def load(argument: str) -> ConfigDict:
    """The config that `--config=ARGUMENT` names, e.g. 'configs/cifar10.py:mini,fixed'; checked."""
    path, _, variant = locate(f"--config={argument}").removeprefix("--config=").partition(":")
    spec = importlib.util.spec_from_file_location("vdm_jax_config_file", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(variant)
    check(config)
    return config
