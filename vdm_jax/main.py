"""The command line: `python -m vdm_jax.main --config=configs/digits.py --workdir=DIR`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging
from etils import epath
from ml_collections import ConfigDict, config_flags

from vdm_jax import config as configs
from vdm_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file and perhaps variants of it: configs/digits.py, configs/cifar10.py:mini.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for checkpoints, metrics and samples.")
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval", "sample", "inspect"], "What to do; train resumes if it can."
)
_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "Weights to evaluate, sample or start from: a workdir, one of its checkpoints, or a published file.",
)


def parse(argv: Sequence[str]) -> list[str]:
    """Flags, with errors as one sentence."""
    try:
        return flags.FLAGS([argv[0], *(configs.locate(a) for a in argv[1:])])
    except UserError as error:
        fail(str(error))
    except AttributeError as error:
        fail(f"unknown config field: {configs.explain_unknown(argv, str(error))}")
    except (flags.Error, OSError, ValueError, TypeError, KeyError, SyntaxError) as error:
        fail(str(error).strip().splitlines()[0])


def fail(sentence: str) -> Any:
    """Print one sentence and leave with status 2."""
    print(f"vdm_jax: {sentence}", file=sys.stderr, flush=True)
    sys.exit(2)


def resolve(directory: epath.Path) -> ConfigDict:
    """The config of the command line, else the one the directory was made with; checked."""
    from vdm_jax.training import workdir

    config = _CONFIG.value
    if config is None:
        saved = workdir.saved_config(directory)
        if saved is None:
            raise UserError("--config is missing, and the working directory has none; e.g. --config=configs/digits.py")
        config = configs.from_saved(saved)
    configs.check(config)
    return config


def execute() -> None:
    """Run the mode that the flags ask for."""
    if not _WORKDIR.value:
        raise UserError(
            "--workdir is missing; say where checkpoints, metrics and samples go, e.g. --workdir=runs/digits"
        )
    directory = epath.Path(_WORKDIR.value).expanduser()
    config = resolve(directory)

    from vdm_jax.training import devices

    devices.use_cpu_cores(config.data.batch_size)

    from vdm_jax import modes

    modes.RUN[_MODE.value](config, directory, _WEIGHTS.value)


def main(argv: Sequence[str]) -> None:
    """Entry of absl's app."""
    if len(argv) > 1:
        fail(f"{argv[1]!r} is not a flag; flags start with --, as in --config=configs/digits.py")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells every step of a save
    try:
        execute()
    except UserError as error:
        fail(str(error))


def run() -> None:
    """Console entry point."""
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    run()
