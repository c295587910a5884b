"""A disk that is full while a checkpoint is saved: one sentence, whole old checkpoints, and on once there is room."""

from __future__ import annotations

import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import pytest

from tests.faults.commands import SWIRL, Place, lines, outcome, steps
from tests.processes import job, program

# In a name space of its own, in which a small disk may be mounted: as root, else as root of a user's name space.
UNSHARE = next(
    (
        command
        for command in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"])
        if shutil.which("unshare")
        and subprocess.run(
            [*command, "sh", "-c", f"mount -t tmpfs none {tempfile.gettempdir()}"], capture_output=True
        ).returncode
        == 0
    ),
    None,
)

SCRIPT = """
mount -t tmpfs -o size={size}k none {disk}
{command}
echo "status $?"
cp -r {disk}/run {kept}
mount -o remount,size=100m {disk}
{command} || exit 1
cp -r {disk}/run {whole}
"""


# The same error at another place: no file may become larger than 100 kB.
LIMITED = """
import resource, signal, sys
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from tests.training.states import Position, tiny
from vdm_jax.errors import UserError
from vdm_jax.runtime import checkpoints

logging.set_verbosity(logging.WARNING)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
large = {"kernel": jnp.asarray(np.random.default_rng(0).standard_normal(200_000))}
with checkpoints.manager(epath.Path(sys.argv[1]), 3) as saver:
    for step, params in ((1, {}), (2, {}), (3, large), (4, {})):
        try:
            checkpoints.save(saver, tiny(step)._replace(params=params), Position(step))
        except UserError as error:
            print(step, error)  # what the saving in the background came to
    checkpoints.finish(saver)
"""


@pytest.mark.slow
def test_failed_saving_is_told_once_and_by_the_next(tmp_path: pathlib.Path) -> None:
    with job(program(LIMITED, 1, str(tmp_path / "run")), tmp_path, devices=2) as running:
        done = running.wait(together=True)[0]
    place = tmp_path / "run" / "checkpoints"
    assert done.out == (
        f"4 the disk is full: no checkpoint could be written to {place}; existing checkpoints are intact (1, 2); "
        "free some space and run the same command again\n"
    )
    assert done.err == ""
    assert steps(tmp_path / "run") == [1, 2]


@pytest.mark.slow
@pytest.mark.skipif(UNSHARE is None, reason="no small disk can be mounted here: neither root nor user name spaces")
def test_full_disk_stops_with_a_sentence_and_the_run_goes_on_when_there_is_room(tmp_path: pathlib.Path) -> None:
    assert UNSHARE is not None
    place = Place.at(tmp_path)
    endless = (*SWIRL, "--config.training.keep=1000", "--config.training.eval_every=0")  # every checkpoint is kept
    place.run("straight", endless)
    folder = tmp_path / "straight" / "checkpoints"
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    disk, kept, whole = (tmp_path / name for name in ("disk", "kept", "whole"))
    disk.mkdir()
    command = shlex.join([sys.executable, "-m", "vdm_jax.main", *endless, f"--workdir={disk}/run"])
    # Room for a third of the checkpoints, files being rounded up to pages of 4 KiB.
    size = sum(-(-size // 4096) * 4 for size in sizes) // 3
    script = SCRIPT.format(size=size, disk=disk, command=command, kept=kept, whole=whole)
    with job([[*UNSHARE, "sh", "-c", script]], tmp_path, **place.environment) as running:
        done = running.wait(240, together=True)[0]
    assert re.search(r"^status 2$", done.out, re.MULTILINE)
    assert len(done.err.splitlines()) == 1, done.err
    (sentence,) = done.err.splitlines()
    found = steps(kept)
    assert re.fullmatch(
        rf"vdm_jax: the disk is full: no checkpoint could be written to {disk}/run/checkpoints; existing checkpoints "
        rf"are intact \({', '.join(map(str, found))}\); free some space and run the same command again",
        sentence,
    )
    assert found and lines(kept)
    assert f"resuming at step {found[-1]} " in done.out and "damaged" not in done.out
    assert outcome(whole) == outcome(tmp_path / "straight")
