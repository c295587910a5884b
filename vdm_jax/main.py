"""The command line: `python -m vdm_jax.main --config=configs/digits.py --workdir=DIR`."""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging
from etils import epath
from ml_collections import ConfigDict

from vdm_jax import config as configs
from vdm_jax.config import overrides as config_overrides
from vdm_jax.config import unused
from vdm_jax.errors import UserError
from vdm_jax.fields import nearest

_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "A config file, optionally with variants: configs/digits.py, configs/cifar10.py:mini. "
    "Any field can be overridden, as in --config.training.num_steps=200.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for checkpoints, metrics and samples.")
MODES = ("train", "eval", "sample", "plan", "inspect")
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do; train resumes from the last checkpoint.")
_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "Weights to evaluate, to sample from or to start from: a workdir, one of its checkpoints, or a published file.",
)
_STAGES = flags.DEFINE_multi_string(
    "stage",
    [],
    "With --mode=sample: the working directory of a model whose samples condition that of the next --stage, the last "
    "that of --workdir; settings of its own may follow, as in --stage='runs/base --config.sampling.label=3'.",
)
_TOPOLOGY = flags.DEFINE_string("topology", None, "With --mode=plan: a TPU slice such as v5e:16x16.")
_PLAN = flags.DEFINE_string("plan", "train", "With --mode=plan: the program to compile, train or sample.")
_HELP_CONFIG = flags.DEFINE_bool(
    "help_config", False, "Print the fields of the config (of --config or --workdir) with their help, and exit."
)
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ("auto", "on", "off"),
    "Whether this is one of several processes of a job; auto: decided by --coordinator and the environment.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, where JAX cannot find it by itself.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes of the job, with --coordinator.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0, with --coordinator.", 0)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds", 100, "Seconds without a heartbeat after which the other processes of the job exit.", 1
)
_PIPE = 141  # exit status of a program that SIGPIPE ends
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # full or not writable


def parse(argv: Sequence[str]) -> list[str]:
    """Parse the flags and return the program and the overrides of the config (--config.section.field=value)."""
    overrides, rest = config_overrides.split(argv[1:])
    try:
        program, *positional = flags.FLAGS([argv[0], *rest])
    except flags.Error as error:
        mode = re.match(r"flag --mode=(.*?): ", str(error))
        fail(f"unknown --mode={mode[1]}; {nearest(mode[1], MODES)}" if mode else " ".join(str(error).split()))
    if positional:
        fail(f"{positional[0]!r} is not a flag; flags start with --, as in --config=configs/digits.py")
    return [program, *overrides]


def fail(sentence: str, status: int = 2) -> Any:
    """Print one sentence to stderr and exit with that status."""
    print(f"vdm_jax: {sentence}", file=sys.stderr, flush=True)
    leave(status)


def leave(status: int) -> Any:
    """Exit; in a job of several processes without waiting for the others, which detect it."""
    from vdm_jax.runtime import distributed

    if distributed.active():
        sys.stdout.flush()
        sys.stderr.flush()
        if distributed.first():
            time.sleep(1)  # the coordinator runs here: without it the others would end with an error of JAX's
        os._exit(status)
    sys.exit(status)


def resolve(directory: epath.Path | None, overrides: Sequence[str] = ()) -> ConfigDict:
    """Return the config of --config, or else that of the working directory, with overrides applied and checked."""
    from vdm_jax.runtime import tokenizer, workdir

    if _CONFIG.value is not None:
        config = configs.load(_CONFIG.value)
    else:
        saved = workdir.saved_config(directory) if directory is not None else None
        if saved is None:
            raise UserError(
                "--config is missing, and the working directory has no config.json; set e.g. --config=configs/digits.py"
            )
        config = configs.from_saved(saved)
    config = overridden(config, overrides, whole=_CONFIG.value is not None)
    return tokenizer.located(config, directory, epath.Path(_WEIGHTS.value).expanduser() if _WEIGHTS.value else None)


def overridden(config: ConfigDict, overrides: Sequence[str], whole: bool) -> ConfigDict:
    """Apply the overrides to the config, check it and return it; for `whole`, see `unused.check`."""
    config_overrides.apply(config, overrides)
    configs.check(config)
    unused.check(config, config_overrides.fields(overrides), _MODE.value, whole)
    return config


def stages() -> list[tuple[epath.Path, ConfigDict]]:
    """Return (working directory, config) of every --stage."""
    from vdm_jax.runtime import tokenizer, workdir

    found = []
    for text in _STAGES.value:
        try:
            place, *given = shlex.split(text)
        except ValueError as error:  # nothing in it, or a quotation without an end
            raise UserError(f"--stage={text!r} names no working directory; write --stage=runs/base") from error
        overrides, rest = config_overrides.split(given)
        if rest:
            raise UserError(f"--stage={text!r}: {rest[0]!r} is no override such as --config.sampling.label=3")
        directory = epath.Path(place).expanduser()
        saved = workdir.saved_config(directory)
        if saved is None:
            raise UserError(f"--stage={place} holds no config.json; give the working directory of a trained model")
        config = overridden(configs.from_saved(saved), overrides, whole=False)
        found.append((directory, tokenizer.located(config, directory)))
    return found


def check_flags() -> None:
    """Raise UserError for a flag that the mode does not use."""
    others = tuple(mode for mode in MODES if mode != "plan")
    for name, modes in (("stage", ("sample",)), ("topology", ("plan",)), ("plan", ("plan",)), ("weights", others)):
        if flags.FLAGS[name].present and _MODE.value not in modes:
            fits = f"--mode={' or '.join(modes)}"
            raise UserError(f"--{name} is for {fits}, and this is --mode={_MODE.value}; leave it out")


def execute(overrides: Sequence[str] = ()) -> None:
    """Run the mode that the flags select."""
    check_flags()
    if _HELP_CONFIG.value:
        place = epath.Path(_WORKDIR.value).expanduser() if _WORKDIR.value else None
        print(config_overrides.describe(resolve(place, overrides)))
        return
    planning = _MODE.value == "plan"
    if not (_WORKDIR.value or (_MODE.value in ("plan", "inspect") and _CONFIG.value)):
        raise UserError(
            "--workdir is missing; it is the directory for checkpoints, metrics and samples, e.g. --workdir=runs/digits"
        )
    directory = epath.Path(_WORKDIR.value).expanduser() if _WORKDIR.value else None
    config = resolve(directory, overrides)
    if planning:
        if not _TOPOLOGY.value:
            raise UserError("--topology is missing; it names the TPU slice to plan for, as in --topology=v5e:2x4")

        from vdm_jax import plan

        plan.run(config, directory, _TOPOLOGY.value, _PLAN.value)
        return
    from vdm_jax.runtime import backends, devices, distributed

    distributed.start(_DISTRIBUTED.value, _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _HEARTBEAT.value)
    devices.use_cpu_cores(config.data.batch_size)
    backends.start()
    distributed.check()

    from vdm_jax import modes

    earlier = [stages()] if _MODE.value == "sample" else []
    modes.RUN[_MODE.value](config, directory, _WEIGHTS.value, *earlier)


def main(argv: Sequence[str]) -> None:
    """Run the command line and turn exceptions into one sentence and an exit status."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax logs every step of a save
    try:
        execute(argv[1:])
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted; run the same command again to continue from the last checkpoint, if any", 130)
    except Exception as error:
        from vdm_jax.runtime import distributed, memory
        from vdm_jax.runtime.preemption import Preempted

        if isinstance(error, Preempted):
            fail(str(error), error.status)
        if isinstance(error, BrokenPipeError):  # the reader of a pipe has ended, as in `… | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at exit
            leave(_PIPE)
        if isinstance(error, OSError) and error.errno in _DISK:
            place = error.filename or _WORKDIR.value
            fail(f"{error.strerror}: {place}; when that is fixed, run the same command again to continue from there")
        if memory.exhausted(error):
            advice = ["use a smaller model", "less data", "a machine with more memory"]
            fail(memory.sentence(error, f"--mode={_MODE.value}", advice))
        if not distributed.active():
            raise
        traceback.print_exc()
        fail("this process of the job has failed; start the job again to continue from the last checkpoint", 1)


def run() -> None:
    """Console entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # ± and × in an encoding that has none
    try:
        app.run(main, flags_parser=parse)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # otherwise Ctrl-C while Python exits prints a traceback


if __name__ == "__main__":
    run()
