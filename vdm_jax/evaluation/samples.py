"""Drawing samples batch by batch, and writing them as grids, arrays and noise-to-image strips."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import conditioning
from vdm_jax.conditioning import Guided
from vdm_jax.core import chain as chains
from vdm_jax.core.method import Method
from vdm_jax.evaluation import grids, names, pictures
from vdm_jax.evaluation.names import Origin
from vdm_jax.keys import example_keys
from vdm_jax.runtime import memory, progress
from vdm_jax.runtime.devices import put_batch, replicated, round_up, under
from vdm_jax.runtime.processes import placed, say

STRIP_ROWS, STRIP_POINTS, STRIP_STATES = 6, 500, 9
BYTES = 256  # values of a pixel that uint8 holds


@lru_cache(maxsize=4)
def _sampler(draw: Callable[..., Any], seed: int, num_steps: int, keep: tuple[int, ...], mesh: Mesh) -> Any:
    """Return (params, batch of 'index', 'cond', 'weights') → (samples, states), compiled once per run."""

    def run(params: Any, batch: dict[str, Any]) -> Any:
        keys, cond = example_keys(jax.random.key(seed), batch["index"]), batch["cond"]
        cond = Guided(cond, batch["weights"]) if batch["weights"] else cond
        return draw(params, keys, cond, num_steps, keep)

    return jax.jit(under(mesh, run), out_shardings=replicated(mesh))


class Drawn(NamedTuple):
    """A set of samples.

    Attributes:
      images: the samples, [N, …].
      states: the latents after the K kept steps, [K, N, …].
      requested: the requested value of each condition, [N, …].
      evaluations: the number of network evaluations per sample, [N], or None if it is fixed.
    """

    images: np.ndarray
    states: np.ndarray
    requested: dict[str, np.ndarray]
    evaluations: np.ndarray | None


def sample(
    config: ConfigDict,
    method: Method,
    params: Any,
    mesh: Mesh,
    count: int,
    keep: tuple[int, ...] = (),
    weight: float | None = None,
    known: Mapping[str, np.ndarray] | None = None,
) -> Drawn:
    """Draw samples; every process returns all of them.

    Sample k depends only on k, its conditions, the seed and the guidance weight.

    Args:
      config: the config.
      method: the method.
      params: its parameters.
      mesh: the device mesh.
      count: the number of samples.
      keep: the steps after which the latents are kept.
      weight: the guidance weight w; None for the first of `sampling.guidance`.
      known: values of conditions that come from earlier stages of a pipeline, by name.

    Raises:
      UserError: a sample is not finite, or the ODE solver failed.
    """
    section = config.sampling
    assert method.sample is not None
    size = round_up(min(section.batch_size, count), mesh)
    requested = conditioning.requests(method.conditions, config, count, known)
    starts, parts = range(0, count, size), []
    with (
        memory.explained("sampling", memory.when_sampling(config)),
        progress.shown("sampling", len(starts)) as advance,
    ):
        run, params = _sampler(method.sample, section.seed, section.num_steps, keep, mesh), placed(params, mesh)
        for first in progress.each(starts, advance):
            parts.append(jax.device_get(run(params, _batch(config, method, mesh, requested, first, size, weight))))
    images, paths, *counts = zip(*parts, strict=True)
    evaluations = np.concatenate(counts[0])[:count] if counts else None
    chains.check_solved(config.sampling.get("tolerance", 0.0), *([] if evaluations is None else [evaluations]))
    chains.check_finite(drawn := np.concatenate(images)[:count])
    return Drawn(drawn, np.concatenate(paths, axis=1)[:, :count], requested, evaluations)


def _batch(
    config: ConfigDict,
    method: Method,
    mesh: Mesh,
    requested: Mapping[str, np.ndarray],
    first: int,
    size: int,
    weight: float | None,
) -> dict[str, Any]:
    """Return the batch of the samples from `first` on; those past the last one, which pad it, are dropped later."""
    share, guidance = size // jax.process_count(), config.sampling.get("guidance", (0.0,))
    index = first + jax.process_index() * share + np.arange(share, dtype=np.int32)
    rows = {name: value[index % len(value)] for name, value in requested.items() if value is not None}
    cond = conditioning.prepared(method.conditions, rows, method.encode)
    weights = {}
    if any(guidance):  # one program for all weights, including 0
        w = guidance[0] if weight is None else weight
        weights = {c.name: np.full(share, w, np.float32) for c in method.conditions if c.guidable}
    return put_batch(mesh, {"index": index, "cond": jax.tree.map(np.asarray, cond), "weights": weights})


def check_samples(config: ConfigDict, method: Method) -> None:
    """Raise UserError if the samples that a config asks for do not fit in the memory of this machine."""
    if method.sample is None:
        return
    section, shape = config.sampling, tuple(config.data.shape)
    guided = len(section.get("guidance", (0.0,)))
    memory.check_samples("config.sampling.num_images", section.num_images, shape, guided * (STRIP_STATES + 1) - 1)
    memory.check_samples("config.evaluation.num_samples", config.evaluation.get("num_samples", 0), shape)


def sample_grid(
    config: ConfigDict,
    method: Method,
    params: Any,
    mesh: Mesh,
    directory: epath.Path,
    step: int,
    known: Mapping[str, np.ndarray] | None = None,
    name: str = "",
) -> list[Drawn]:
    """Draw `sampling.num_images` samples per guidance weight and write them as samples/<name>.png.

    Labels that cycle are arranged in columns. With several guidance weights, each has rows of its own. The
    low-resolution inputs of an upsampler are at the same positions in <name>_given.png. By default, `name` is that of
    `names.sample_stem`.
    """
    section = config.sampling
    keep = tuple(np.unique(np.linspace(0, section.num_steps - 1, STRIP_STATES + 1).astype(int)[:-1]).tolist())
    parts = [
        sample(config, method, params, mesh, section.num_images, keep, weight, known)
        for weight in section.get("guidance", (0.0,))
    ]
    if jax.process_index() == 0:
        images = [part.images for part in parts]
        name = name or names.sample_stem(config, method, step, directory)
        grids.save_grid(config, method, images, parts[0].requested, directory / "samples", name)
    return parts


def _arrays(method: Method, requested: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the requested values of the conditions as arrays for the .npz file."""
    kept: dict[str, np.ndarray] = {}
    for condition in method.conditions:
        kept |= condition.arrays(requested[condition.name])
    return kept


def _compact(images: np.ndarray, vocabulary: int | None) -> np.ndarray:
    """Return images as saved: uint8 if that holds the values of a pixel, else int32; points are returned as is."""
    if not vocabulary:
        return images
    return images.astype(np.uint8 if vocabulary <= BYTES else np.int32)


def made_by(path: epath.Path) -> dict[str, Any] | None:
    """Return the record of a file of samples, {} if it has none, or None if there is no such file or it is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            record = json.loads(str(arrays["made_by"])) if "made_by" in arrays else {}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error):
        return None
    return record if isinstance(record, dict) else {}


def write_samples(
    config: ConfigDict,
    method: Method,
    params: Any,
    mesh: Mesh,
    directory: epath.Path,
    step: int,
    known: Mapping[str, np.ndarray] | None = None,
    origin: Origin | None = None,
) -> list[epath.Path]:
    """Draw samples and write a grid, arrays (.npz) and a noise-to-image strip; return the paths.

    The names say which settings differ from config.json of the working directory, and 'made_by' of the arrays is a
    JSON record of all of them; samples of other settings are not overwritten. If the number of network evaluations
    varies between samples, it is printed and saved.
    """
    folder, vocabulary = directory / "samples", config.data.vocabulary or None
    record = names.made_samples(config, step, origin)
    stem = names.sample_stem(config, method, step, directory, origin)
    name = names.free(stem, lambda taken: made_by(folder / f"{taken}.npz"), record)
    parts = sample_grid(config, method, params, mesh, directory, step, known, name)
    arrays, strip = folder / f"{name}.npz", folder / f"{name}_strip.png"
    if jax.process_index() == 0:
        images = np.concatenate([part.images for part in parts])
        _save_arrays(arrays, config, method, parts, images, json.dumps(record))
        rows = STRIP_ROWS if vocabulary else STRIP_POINTS
        states = np.concatenate([part.states for part in parts], axis=1)
        pictures.save_strip(strip, states[:, :rows], images[:rows], vocabulary)
    given = [folder / f"{name}_given.png"] if grids.given(method, parts[0].requested) else []
    return [folder / f"{name}.png", *given, arrays, strip]


def _save_arrays(
    path: epath.Path, config: ConfigDict, method: Method, parts: list[Drawn], images: np.ndarray, record: str
) -> None:
    """Write the samples of all guidance weights, their conditions and the record of what made them, atomically."""
    content: dict[str, Any] = {"samples": _compact(images, config.data.vocabulary or None), "made_by": np.array(record)}
    kept = [_arrays(method, part.requested) for part in parts]
    content |= {key: np.concatenate([part[key] for part in kept]) for key in kept[0]}
    if kept[0]:
        weights = np.asarray(config.sampling.get("guidance", (0.0,)), np.float32)
        content["guidance"] = np.repeat(weights, config.sampling.num_images)
    counts = [part.evaluations for part in parts if part.evaluations is not None]
    if counts:
        content["evaluations"] = evaluations = np.concatenate(counts)
        say(
            f"network evaluations per sample: {np.mean(evaluations):.1f} on average, "
            f"{evaluations.min()} to {evaluations.max()} (tolerance {config.sampling.tolerance:g})"
        )
    scratch = path.parent / (path.name + ".tmp")
    with scratch.open("wb") as file:
        np.savez_compressed(file, **content)
    scratch.replace(path)
