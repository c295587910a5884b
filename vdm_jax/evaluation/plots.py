"""The plots of an evaluation: γ(t), the loss by t, and the method's own pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import Array
from jax.sharding import Mesh

from vdm_jax.core.method import Method
from vdm_jax.evaluation import pictures
from vdm_jax.evaluation.likelihood import words
from vdm_jax.keys import example_keys
from vdm_jax.runtime.devices import put_batch, replicated, under
from vdm_jax.runtime.processes import placed


def curves(method: Method, params: Any, mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return t, γ(t) and γ′(t), [201] each."""
    t = np.linspace(0, 1, 201, dtype=np.float32)

    def values(params: Any) -> tuple[Array, Array]:
        schedule = method.schedule(params)
        return schedule.gamma(jnp.asarray(t)), schedule.dgamma(jnp.asarray(t))

    gamma, dgamma = jax.device_get(jax.jit(values, out_shardings=replicated(mesh))(placed(params, mesh)))
    return t, gamma, dgamma


def write_plots(
    directory: epath.Path, schedule: Any, values: dict[str, np.ndarray], names: Mapping[str, str]
) -> list[epath.Path]:
    """Write plots/schedule.png and, if the terms have times, plots/loss_by_t.png.

    An outdated loss_by_t.png is removed.

    Args:
      directory: the working directory.
      schedule: the result of `curves`.
      values: the terms per example.
      names: maps terms by t to their names if they are not those of a likelihood.

    Returns:
      The paths of the plots.
    """
    folder = directory / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    path, loss = folder / "schedule.png", folder / "loss_by_t.png"
    pictures.save_schedule(path, *schedule)
    if "t" not in values:
        loss.unlink(missing_ok=True)
        return [path]
    pictures.save_loss_by_t(loss, values, {term: words(name) for term, name in names.items()})
    return [path, loss]


def write_pictures(
    method: Method, params: Any, mesh: Mesh, directory: epath.Path, batch: dict[str, np.ndarray], seed: int, count: int
) -> list[epath.Path]:
    """Write the method's own pictures of the first `count` images of a batch as plots/<name>.png; return the paths.

    batch: this process's rows.
    """
    inputs = put_batch(mesh, {k: batch[k] for k in ("x", "cond", "index")})

    def draw(params: Any, inputs: dict[str, Array]) -> dict[str, Array]:
        keys = example_keys(jax.random.key(seed), inputs["index"])
        assert method.pictures is not None
        return method.pictures(params, {k: inputs[k] for k in ("x", "cond")}, keys)

    drawn = jax.device_get(jax.jit(under(mesh, draw), out_shardings=replicated(mesh))(placed(params, mesh), inputs))
    paths = []
    for name, rows in drawn.items():
        paths.append(directory / "plots" / f"{name}.png")
        if jax.process_index() == 0:
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            tiles = np.round(255 * rows[:count]).astype(np.uint8)
            pictures.save_image(paths[-1], pictures.grid(tiles.reshape(-1, *tiles.shape[2:]), tiles.shape[1]))
    return paths
