"""Twenty steps of one config, run in every way the trainer knows; prints how far apart they end.

    python -m tests.training.agreement points|images|levels|gan|gan_images|clip|noised_clip|clip_resnet float32|float64

Eight virtual devices. Prints {way: largest difference to one device, relative to the largest entry of a leaf}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from vdm_jax import conditioning, data, methods
from vdm_jax.runtime import devices
from vdm_jax.training.program import functions

STEPS = 20
WAYS: dict[str, dict[str, Any]] = {
    "one": {},
    "jit": {"devices": 8},
    "fsdp": {"devices": 8, "fsdp": 4},
    "pmap": {"devices": 8, "parallelism": "pmap"},
    "one, accumulated": {"accumulate": 4},
    "fsdp, accumulated": {"devices": 8, "fsdp": 2, "accumulate": 2},
    "pmap, accumulated": {"devices": 8, "parallelism": "pmap", "accumulate": 2},
    "jit, calls of five steps": {"devices": 8, "steps_per_call": 5},
    "pmap, calls of five steps": {"devices": 8, "parallelism": "pmap", "steps_per_call": 5},
}

FOUR: dict[str, dict[str, Any]] = {
    "jit, 4 devices": {"devices": 4},
    "pmap, 4 devices": {"devices": 4, "parallelism": "pmap"},
}


def batches(config: Any) -> Iterator[dict[str, Any]]:
    dataset = data.load(config.data.name, "train")
    iterator = data.train_iterator(
        dataset, seed=1, batch_size=config.data.batch_size, augment=tuple(config.data.augment)
    )
    conditions = methods.build(config).conditions
    return (conditioning.batch_of(conditions, batch) for batch in iterator)


def run(config: Any, first: Any, way: dict[str, Any]) -> dict[str, Any]:
    """Losses, parameters and averages after the steps; optimizer state (Adam's m: gradients) after the first."""
    section = config.copy_and_resolve_references()
    for name in ("parallelism", "fsdp", "accumulate", "steps_per_call"):
        section.training[name] = way.get(name, section.training[name])
    mesh = devices.make_mesh(section.data.batch_size, section.training.fsdp, jax.devices()[: way.get("devices", 1)])
    method = methods.build(section)
    program = functions(section, method, mesh)
    if program.abstract.params and section.training.fsdp > 1:
        placed = devices.state_shardings(mesh, program.abstract)
        assert any(not s.is_fully_replicated for s in jax.tree.leaves(placed)), "nothing was split over fsdp"
    state = program.enter(devices.put_state(first, program.shardings))
    rows, losses, gradients, count = batches(section), [], None, section.training.steps_per_call
    for number in range(0, STEPS, count):
        chunk = tuple(program.put(next(rows)) for _ in range(count))
        state, report = program.variants(method.variant(number))(state, chunk, None)
        losses.append(float(report.loss))
        if gradients is None and count == 1:
            gradients = with_gradient(jax.device_get(program.leave(state).opt_state))
    found = jax.device_get(program.leave(state))
    assert int(found.step) == STEPS and int(found.bad) == 0
    return {
        "losses": losses,
        "gradients": gradients,
        "params": with_gradient(found.params),
        "ema": with_gradient(found.ema),
        "window": found.window,
        "extra": found.extra,
    }


def with_gradient(params: Any) -> Any:
    """Without the bias of attention's keys: softmax does not see it, so Adam blows its rounding errors up to steps."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {k: leaf for path, leaf in leaves if not (k := jax.tree_util.keystr(path)).endswith("['k']['bias']")}


def shaken(params: Any) -> Any:
    """Every weight + N(0, .1²)."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: a + (0.1 * rng.standard_normal(a.shape)).astype(a.dtype), params)


def distance(left: Any, right: Any) -> float:
    """Largest difference of two trees, relative to the largest entry of the leaf it is in."""
    largest = 0.0
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        scale = float(np.max(np.abs(b), initial=0.0))
        largest = max(largest, float(np.max(np.abs(np.asarray(a) - b), initial=0.0)) / (scale or 1.0))
    return largest


def compare(config: Any, dtype: str, ways: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """{way: {quantity: distance to one device}}."""
    one = devices.make_mesh(config.data.batch_size, 1, jax.devices()[:1])
    cast = lambda a: a.astype(dtype) if a.dtype in (np.float32, np.float64) else a
    first = jax.tree.map(cast, jax.device_get(functions(config, methods.build(config), one).init()))
    if config.model.get("family") == "ddgan":  # of kernels that start at 1e-10 hardly any gradient comes through
        first = first._replace(params=shaken(first.params))
    reference = run(config, first, {})
    found = {}
    for name, way in ways.items():
        other = run(config, first, way)
        if other["gradients"] is None:
            other["losses"] = [reference["losses"][k] for k in range(STEPS)]
            other["gradients"] = reference["gradients"]
        found[name] = {key: distance(other[key], reference[key]) for key in reference}
    moved = distance(reference["params"], with_gradient(first.params))
    return found | {"the steps themselves": {"params": moved}}


def main(which: str, dtype: str, names: list[str]) -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", dtype == "float64")
    from tests.training import runs

    config = getattr(runs, which)()
    config.model.dtype = dtype
    config.optimizer.warmup_steps = 0
    if "images" not in which:
        config.model.width = 64
    if config.method == "ddgan":
        config.training.r1_every = 1  # calls of five steps are of one variant
    ways = {name: way for name, way in (WAYS | FOUR).items() if name in names} if names else WAYS
    print(json.dumps(compare(config, dtype, {k: v for k, v in ways.items() if k != "one"})))


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
