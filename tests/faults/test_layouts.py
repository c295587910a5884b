"""One checkpoint on other devices, in other processes and by other wrappers: bit for bit, wherever it was written."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from tests.processes import outputs, program

# Each argument is an action on the state of an MLP, laid out by the trainer's own rule.
STATES = """
import json, sys
import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from tests.training.runs import FAST, points
from tests.training.states import Position, largest
from vdm_jax import methods
from vdm_jax.runtime import checkpoints, checksums, devices
from vdm_jax.training.program import functions

config = points()
config.model.width, config.model.depth = 64, 3
for action in sys.argv[1:]:
    verb, workdir, count, fsdp, config.training.parallelism = action.split(",")
    mesh = devices.make_mesh(16, int(fsdp), devices.in_order()[: int(count)])
    program = functions(config, methods.build(config), mesh, FAST)
    place = lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s)
    like, position, said = jax.tree.map(place, program.abstract, program.shardings), Position(7), []
    with checkpoints.manager(epath.Path(workdir), 3) as saver:
        if verb == "write":
            random = lambda a: np.random.default_rng(a.size).standard_normal(a.shape).astype(a.dtype)
            values = jax.tree.map(random, program.abstract)
            for step in (5, 6):
                state = devices.put_state(values._replace(step=np.int32(step)), program.shardings)
                checkpoints.save(saver, program.leave(program.enter(state)), position)
        if verb == "cut" and jax.process_index() == 0:
            path = largest(epath.Path(workdir) / "checkpoints" / "6")
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        multihost_utils.sync_global_devices("cut")
        if verb != "write":
            state, step = checkpoints.restore_newest(saver, like, Position(), said.append)
            assert jax.tree.map(lambda a: a.sharding, state) == program.shardings
            position.index = step + 1
        assert verb == "cut" or position.index == 7
        split = sum(not a.is_fully_replicated for a in jax.tree.leaves(state))
        sums = {k: v for k, v in checksums.sums(state._asdict()).items() if k != "step"}
        print(json.dumps([int(state.step), sums, split, len(said)]))
"""


def states(folder: pathlib.Path, *actions: str, processes: int = 1, devices: int = 1) -> list[list[Any]]:
    """[step, sums, leaves that are split, sentences] after each action; all processes must say the same."""
    every = outputs(program(STATES, processes, *actions), folder, devices=devices)
    found = [[json.loads(line) for line in out.splitlines() if line.startswith("[")] for out in every]
    assert all(other == found[0] for other in found) and len(found[0]) == len(actions)
    return found[0]


@pytest.mark.slow
def test_checkpoint_of_eight_devices_on_one_and_four_and_under_jit_pmap_and_fsdp(tmp_path: pathlib.Path) -> None:
    fsdp, one, four, pmap, other, back = states(
        tmp_path,
        *("write,a,8,4,jit", "read,a,1,1,jit", "read,a,4,2,jit", "read,a,8,1,pmap"),
        *("write,b,8,1,pmap", "read,b,8,2,jit"),
        devices=8,
    )
    sums = fsdp[1]
    assert all(found[:2] == [6, sums] and found[3] == 0 for found in (one, four, pmap, other, back))
    assert [found[2] > 4 for found in (fsdp, one, four, pmap, other, back)] == [True, False, True, False, False, True]


@pytest.mark.slow
def test_checkpoints_of_one_process_in_two_and_back(tmp_path: pathlib.Path) -> None:
    ((_, sums, _, _),) = states(tmp_path, "write,a,4,2,jit", devices=4)
    # Process 1 holds what process 0 cannot see; a file that is cut is passed over by both.
    read, cut, written = states(tmp_path, "read,a,4,4,jit", "cut,a,4,4,jit", "write,b,4,4,jit", processes=2, devices=2)
    assert read == [6, sums, read[2], 0] and read[2] > 4
    assert cut == [5, sums, read[2], 1]
    assert written[:2] == [6, sums]
    assert states(tmp_path, "read,b,1,1,jit") == [[6, sums, 0, 0]]
