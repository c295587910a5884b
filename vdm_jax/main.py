"""The command line: `python -m vdm_jax.main --config=configs/digits.py --workdir=DIR`."""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging
from etils import epath
from ml_collections import ConfigDict, config_flags

from vdm_jax import config as configs
from vdm_jax.config import layouts as config_layouts
from vdm_jax.config import registry as config_registry
from vdm_jax.errors import UserError
from vdm_jax.fields import nearest

_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "A config file and perhaps variants of it: configs/digits.py, configs/cifar10.py:mini. "
    "Any field of it can be set, as in --config.training.num_steps=200.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for checkpoints, metrics and samples.")
MODES = ("train", "eval", "sample", "plan", "inspect")
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do; train resumes if it can.")
_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "Weights to evaluate, sample or start from: a workdir, one of its checkpoints, or a published file.",
)
_STAGES = flags.DEFINE_multi_string(
    "stage",
    [],
    "With --mode=sample: the working directory of a model whose samples condition that of the next --stage, the last "
    "that of --workdir; settings of its own may follow, as in --stage='runs/base --config.sampling.label=3'.",
)
_TOPOLOGY = flags.DEFINE_string("topology", None, "With --mode=plan: a slice such as v5e:16x16.")
_PLAN = flags.DEFINE_string("plan", "train", "With --mode=plan: what to compile, train or sample.")
_HELP_CONFIG = flags.DEFINE_bool(
    "help_config", False, "Print the fields of the config (--config, or that of --workdir) with their help, and end."
)
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ("auto", "on", "off"),
    "Whether this is one of several processes of a job; auto: if --coordinator or the environment says so.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, where nothing tells JAX.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the job, with --coordinator.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, with --coordinator.", 0)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds", 100, "Silence after which the other processes give a process up and end.", 1
)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # full or not ours to write
_OVERRIDE = re.compile(r"--?(no)?config\.([^=]*)")


def parse(argv: Sequence[str]) -> list[str]:
    """Read the flags; what is left are the overrides of the config, as --config.section.field=value."""
    overrides, rest = split_overrides(argv[1:])
    try:
        program, *positional = flags.FLAGS([argv[0], *rest])
    except flags.Error as error:
        mode = re.match(r"flag --mode=(.*?): ", str(error))
        fail(f"unknown --mode={mode[1]}; {nearest(mode[1], MODES)}" if mode else " ".join(str(error).split()))
    if positional:
        fail(f"{positional[0]!r} is not a flag; flags start with --, as in --config=configs/digits.py")
    return [program, *overrides]


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(overrides, other arguments); '--config.model.width 64' becomes '--config.model.width=64'."""
    overrides: list[str] = []
    rest: list[str] = []
    table = configs.field_table()
    value_follows = False
    for argument in arguments:
        matched = _OVERRIDE.match(argument)
        if matched:
            overrides.append(argument)
            field = table.get(config_layouts.ALIASES.get(matched[2], matched[2]))
            value_follows = "=" not in argument and not (field and isinstance(field.default, bool))
        elif value_follows:
            overrides[-1] += f"={argument}"
            value_follows = False
        else:
            rest.append(argument)
    return overrides, rest


def override(config: ConfigDict, overrides: Sequence[str]) -> None:
    """Set the fields that --config.section.field=value name, with ml_collections' parsers; those that choose parts of
    the config before the others, whatever their order."""
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
    given = dict(configs.flatten(parsed))
    configs.choose(config, {name: given[name] for name in names})


def _renamed(argument: str) -> str:
    """The argument with today's name of its field."""
    matched = _OVERRIDE.match(argument)
    if not matched or matched[2] not in config_layouts.ALIASES:
        return argument
    return f"{argument[: matched.start(2)]}{config_layouts.ALIASES[matched[2]]}{argument[matched.end(2) :]}"


def _field_of(argument: str, config: ConfigDict) -> str:
    """The field that an override names. Raises UserError for a section or a field of no config."""
    matched, table = _OVERRIDE.match(argument), configs.field_table()
    name = matched[2] if matched else argument
    held = configs.active(dict(configs.flatten(config)))
    if name in config_registry.SECTIONS:
        inside = [field for field in (*held, *table) if field.startswith(f"{name}.")]
        raise UserError(f"config.{name} is a section; set one of its fields, such as config.{inside[0]}")
    if name not in table:
        raise UserError(f"unknown config field config.{name}; {configs.nearest_field(name, held)}")
    return name


def describe(config: ConfigDict) -> str:
    """The fields of a config by section, a line each: value, what it does, legal values, whether a resumed run may
    change it."""
    given, lines = dict(configs.flatten(config)), []
    section = None
    for name, field in configs.active(given).items():
        if (now := name.rpartition(".")[0]) != section:
            section = now
            lines += ["", f"{section}:"] if section else []
        legal = f"one of {', '.join(map(repr, field.choices))}" if field.choices else ""
        low = f"at least {field.low:g}" if field.low is not None else ""
        high = f"at most {field.high:g}" if field.high is not None else ""
        notes = [note for note in (legal, low, high, "may change on resume" if field.resume else "") if note]
        about = f" ({'; '.join(notes)})" if notes else ""
        lines.append(f"  --config.{name}={given[name]!r}: {field.help}{about}")
    return "\n".join(lines)


def fail(sentence: str, status: int = 2) -> Any:
    """Print one sentence and leave with that status."""
    print(f"vdm_jax: {sentence}", file=sys.stderr, flush=True)
    leave(status)


def leave(status: int) -> Any:
    """Exit; in a job of several processes without waiting for the others, who notice."""
    from vdm_jax.runtime import distributed

    if distributed.active():
        sys.stdout.flush()
        sys.stderr.flush()
        if distributed.first():
            time.sleep(1)  # the others' coordinator is here: they would end with an error of its own
        os._exit(status)
    sys.exit(status)


def resolve(directory: epath.Path | None, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of the command line, else the one the directory was made with; overridden and checked."""
    from vdm_jax.runtime import workdir

    if _CONFIG.value is not None:
        config = configs.load(_CONFIG.value)
    else:
        saved = workdir.saved_config(directory) if directory is not None else None
        if saved is None:
            raise UserError("--config is missing, and the working directory has none; e.g. --config=configs/digits.py")
        config = configs.from_saved(saved)
    override(config, overrides)
    configs.check(config)
    return config


def stages() -> list[tuple[epath.Path, ConfigDict]]:
    """Return (working directory, config) of every --stage."""
    from vdm_jax.runtime import workdir

    found = []
    for text in _STAGES.value:
        place, *given = shlex.split(text)
        overrides, rest = split_overrides(given)
        if rest:
            raise UserError(f"--stage={text!r}: {rest[0]!r} is no override such as --config.sampling.label=3")
        directory = epath.Path(place).expanduser()
        saved = workdir.saved_config(directory)
        if saved is None:
            raise UserError(f"--stage={place} holds no config.json; give the working directory of a trained model")
        config = configs.from_saved(saved)
        override(config, overrides)
        configs.check(config)
        found.append((directory, config))
    return found


def execute(overrides: Sequence[str] = ()) -> None:
    """Run the mode that the flags ask for."""
    if _HELP_CONFIG.value:
        place = epath.Path(_WORKDIR.value).expanduser() if _WORKDIR.value else None
        print(describe(resolve(place, overrides)))
        return
    planning = _MODE.value == "plan"
    if _STAGES.value and _MODE.value != "sample":
        raise UserError(f"--stage is for --mode=sample, and this is --mode={_MODE.value}; leave it out")
    if not (_WORKDIR.value or (planning and _CONFIG.value)):
        raise UserError(
            "--workdir is missing; say where checkpoints, metrics and samples go, e.g. --workdir=runs/digits"
        )
    directory = epath.Path(_WORKDIR.value).expanduser() if _WORKDIR.value else None
    config = resolve(directory, overrides)
    if planning:
        if not _TOPOLOGY.value:
            raise UserError("--topology is missing; say for which TPU slice to plan, as in --topology=v5e:2x4")

        from vdm_jax import plan

        plan.run(config, directory, _TOPOLOGY.value, _PLAN.value)
        return
    assert directory is not None  # checked above

    from vdm_jax.runtime import devices, distributed

    distributed.start(_DISTRIBUTED.value, _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _HEARTBEAT.value)
    devices.use_cpu_cores(config.data.batch_size)
    distributed.check()

    from vdm_jax import modes

    if _MODE.value == "sample":
        modes.run_sample(config, directory, _WEIGHTS.value, stages())
    else:
        modes.RUN[_MODE.value](config, directory, _WEIGHTS.value)


def main(argv: Sequence[str]) -> None:
    """Entry of absl's app."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells every step of a save
    try:
        execute(argv[1:])
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from where the directory is", 130)
    except Exception as error:
        from vdm_jax.runtime import distributed
        from vdm_jax.runtime.preemption import EXIT_STATUS, Preempted

        if isinstance(error, Preempted):
            fail(str(error), EXIT_STATUS)
        if isinstance(error, OSError) and error.errno in _DISK:
            place = error.filename or _WORKDIR.value
            fail(f"{error.strerror}: {place}; once that is mended the same command goes on from where the directory is")
        if not distributed.active():
            raise
        traceback.print_exc()
        fail("this process of the job has failed; start the job again, it goes on from the last checkpoint", 1)


def run() -> None:
    """Console entry point."""
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    run()
