"""Evaluation and samples of several processes are those of one."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from tests.processes import outputs, program

PROGRAM = """
import pathlib, sys
import jax
import numpy as np
from etils import epath
from tests.training.runs import points, images
from vdm_jax import methods
from vdm_jax.evaluation import report
from vdm_jax.evaluation import samples as samples_of
from vdm_jax.runtime import devices

folder, kind, fsdp = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
config = {"points": points, "images": images}[kind]()
config.evaluation.passes, config.evaluation.batch_size, config.evaluation.examples = 2, 7, 19
config.sampling.num_images, config.sampling.batch_size, config.sampling.num_steps = 10, 8, 3
method = methods.build(config)
mesh = devices.make_mesh(jax.device_count(), fsdp)
leaves, tree = jax.tree.flatten(jax.jit(method.init)(jax.random.key(0)))
rng = np.random.default_rng(0)
moved = [np.asarray(leaf) + 0.1 * rng.normal(size=leaf.shape).astype("f4") for leaf in leaves]
params = jax.tree.unflatten(tree, moved)
if fsdp > 1:
    shardings = devices.state_shardings(mesh, params)
    params = devices.put_state(params, shardings)
    assert not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(params))
seen = {}


def watched(module, name):
    real = getattr(module, name)
    setattr(module, name, lambda *arguments: seen.setdefault(name, real(*arguments)))


watched(report, "measure")
watched(samples_of, "sample")
report.finish(config, method, params, mesh, epath.Path(folder / str(jax.process_index())), 3)
drawn = seen["sample"]
np.savez(folder / f"{jax.process_index()}.npz", samples=drawn.images, states=drawn.states, **seen["measure"][0])
"""


def run(folder: pathlib.Path, count: int, devices: int, kind: str = "points", fsdp: int = 1) -> list[dict[str, Any]]:
    """What each of `count` processes measured; files and words come from the first alone."""
    folder.mkdir()
    said = outputs(program(PROGRAM, count, str(folder), kind, str(fsdp)), folder, devices=devices, timeout=300)
    assert said[0].count("test bits/dim") == 1 and not any(said[1:])
    assert [(folder / str(index)).exists() for index in range(count)] == [True] + [False] * (count - 1)
    assert {path.name for path in (folder / "0" / "samples").iterdir()} == {"3.png", "3.npz", "3_strip.png"}
    found = [dict(np.load(folder / f"{index}.npz")) for index in range(count)]
    saved = json.loads((folder / "0" / "eval.json").read_text())
    assert saved["bits_per_dim"] == pytest.approx(found[0]["total"].mean(), rel=1e-12) and saved["examples"] == 19
    for other in found[1:]:
        for name, value in found[0].items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)
    return found[0]


@pytest.mark.slow
def test_two_processes_measure_and_sample_what_one_does(tmp_path: Any) -> None:
    one = run(tmp_path / "one", 1, 2)
    two = run(tmp_path / "two", 2, 1)
    assert one["total"].shape == (2, 19) and one["states"].shape == (2, 10, 2)
    for name, value in one.items():
        np.testing.assert_array_equal(two[name], value, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["points", "images"])
def test_four_processes_and_split_parameters_measure_the_same(kind: str, tmp_path: Any) -> None:
    one = run(tmp_path / "one", 1, 4, kind)
    ways = {"four": (4, 1, 1), "two": (2, 2, 1), "split": (4, 1, 2), "one and split": (1, 4, 4)}
    for name, (count, devices, fsdp) in ways.items():
        other = run(tmp_path / name, count, devices, kind, fsdp)
        for field, value in one.items():
            if fsdp == 1 and kind == "points":
                np.testing.assert_array_equal(other[field], value, err_msg=f"{name}, {field}")
            elif field == "samples" and kind == "images":
                assert (other[field] != value).mean() < 1e-2  # a latent on the edge of two levels may fall either way
            else:
                np.testing.assert_allclose(other[field], value, rtol=1e-4, atol=1e-4, err_msg=f"{name}, {field}")


BROKEN = """
import sys
import jax
import numpy as np
from tests.training.runs import images
from vdm_jax import methods
from vdm_jax.core.method import PerExample
from vdm_jax.errors import UserError
from vdm_jax.evaluation import report
from vdm_jax.runtime import devices

config = images()
config.data.name, config.data.path, config.data.shape, config.data.vocabulary = "folder", sys.argv[1], (8, 8, 3), 256
config.evaluation.batch_size, config.data.augment = 8, ()
terms = PerExample("bits_per_dim", lambda params, batch, keys: {"total": batch["mask"]})
method = methods.build(config)._replace(evaluators=(terms,))
try:
    report.measure(config, method, {}, devices.make_mesh(jax.device_count()))
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_record_that_one_process_cannot_decode_stops_all_of_them(tmp_path: Any) -> None:
    from PIL import Image

    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for index in range(16):
            Image.new("RGB", (8, 8)).save(tmp_path / part / f"{index:02d}.png")
    (tmp_path / "test" / "05.png").write_bytes(b"")  # of the second half of the first batch
    first, second = outputs(program(BROKEN, 2, str(tmp_path)), tmp_path)
    assert (
        first == second == f"{tmp_path}/test/05.png is not a readable image (no known format); remove or replace it\n"
    )
