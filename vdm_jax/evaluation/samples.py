"""Drawing samples batch by batch, and writing them as grids, arrays and noise-to-image strips."""

from __future__ import annotations

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
from vdm_jax.evaluation import pictures
from vdm_jax.keys import example_keys
from vdm_jax.runtime.devices import put_batch, replicated, round_up, under
from vdm_jax.runtime.processes import placed, say

STRIP_ROWS, STRIP_POINTS, STRIP_STATES = 6, 500, 9
COLUMNS = 20  # of a grid with several guidance weights


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
    run, params = _sampler(method.sample, section.seed, section.num_steps, keep, mesh), placed(params, mesh)
    share, requested = size // jax.process_count(), conditioning.requests(method.conditions, config, count, known)
    parts = []
    for first in range(0, count, size):
        index = first + jax.process_index() * share + np.arange(share, dtype=np.int32)
        rows = {name: value[index % count] for name, value in requested.items() if value is not None}
        cond = conditioning.prepared(method.conditions, rows, method.encode)
        weights = {}
        guidance = section.get("guidance", (0.0,))
        if any(guidance):  # one program for all weights, including 0
            w = guidance[0] if weight is None else weight
            weights = {c.name: np.full(share, w, np.float32) for c in method.conditions if c.guidable}
        batch = put_batch(mesh, {"index": index, "cond": jax.tree.map(np.asarray, cond), "weights": weights})
        parts.append(jax.device_get(run(params, batch)))
    images, paths, *counts = zip(*parts, strict=True)
    evaluations = np.concatenate(counts[0])[:count] if counts else None
    chains.check_solved(config.sampling.get("tolerance", 0.0), *([] if evaluations is None else [evaluations]))
    chains.check_finite(drawn := np.concatenate(images)[:count])
    return Drawn(drawn, np.concatenate(paths, axis=1)[:, :count], requested, evaluations)


def sample_grid(
    config: ConfigDict,
    method: Method,
    params: Any,
    mesh: Mesh,
    directory: epath.Path,
    step: int,
    known: Mapping[str, np.ndarray] | None = None,
) -> list[Drawn]:
    """Draw `sampling.num_images` samples per guidance weight and write them as samples/<stem>.png.

    Labels that cycle are arranged in columns. With several guidance weights, each row shows the first samples of one
    weight. The low-resolution inputs of an upsampler are at the same positions in <stem>_given.png.
    """
    section = config.sampling
    keep = tuple(np.unique(np.linspace(0, section.num_steps - 1, STRIP_STATES + 1).astype(int)[:-1]).tolist())
    parts = [
        sample(config, method, params, mesh, section.num_images, keep, weight, known)
        for weight in section.get("guidance", (0.0,))
    ]
    if jax.process_index() == 0:
        _save_grid(config, method, parts, directory / "samples", stem(config, method, step))
    return parts


def stem(config: ConfigDict, method: Method, step: int) -> str:
    """Return the base name of sample files: the step, the conditions and the scale of a guiding classifier."""
    section = config.sampling
    conditions = "".join(c.stem(config) for c in method.conditions)
    return f"{step}{conditions}" + (f"_scale{section.classifier_scale:g}" if section.get("classifier") else "")


def _save_grid(config: ConfigDict, method: Method, parts: list[Drawn], folder: epath.Path, name: str) -> None:
    """Write the grid of `parts`, the samples of each guidance weight."""
    section, vocabulary = config.sampling, config.data.vocabulary or None
    folder.mkdir(parents=True, exist_ok=True)
    if vocabulary is None:
        titles = [f"w = {weight:g}" if weight else "samples" for weight in section.get("guidance", (0.0,))]
        points = [part.images for part in parts]
        pictures.save_points(folder / f"{name}.png", dict(zip(titles, points, strict=True)))
        return
    columns = next(filter(None, (c.columns(config) for c in method.conditions)), None)
    first = section.num_images
    if len(parts) > 1:
        columns = first = min(first, columns or COLUMNS)
    shown = np.concatenate([part.images[:first] for part in parts])
    pictures.save_samples(folder / f"{name}.png", shown, vocabulary, columns)
    for low in _pictures(method, parts[0].requested):
        times = shown.shape[1] // low.shape[1]
        enlarged = np.concatenate([low[:first].repeat(times, 1).repeat(times, 2)] * len(parts))
        pictures.save_samples(folder / f"{name}_given.png", enlarged, vocabulary, columns)


def _pictures(method: Method, requested: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return the images that samples are conditioned on."""
    conditions = [c.picture(requested[c.name]) for c in method.conditions]
    return [images for images in conditions if images is not None]


def _arrays(method: Method, requested: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the requested values of the conditions as arrays for the .npz file."""
    kept: dict[str, np.ndarray] = {}
    for condition in method.conditions:
        kept |= condition.arrays(requested[condition.name])
    return kept


def write_samples(
    config: ConfigDict,
    method: Method,
    params: Any,
    mesh: Mesh,
    directory: epath.Path,
    step: int,
    known: Mapping[str, np.ndarray] | None = None,
) -> list[epath.Path]:
    """Draw samples and write a grid, arrays (.npz) and a noise-to-image strip; return the paths.

    If the number of network evaluations varies between samples, it is printed and saved.
    """
    folder, vocabulary, name = directory / "samples", config.data.vocabulary or None, stem(config, method, step)
    weights, each = config.sampling.get("guidance", (0.0,)), config.sampling.num_images
    parts = sample_grid(config, method, params, mesh, directory, step, known)
    arrays, strip = folder / f"{name}.npz", folder / f"{name}_strip.png"
    if jax.process_index() == 0:
        images = np.concatenate([part.images for part in parts])
        content: dict[str, Any] = {"samples": images}
        kept = [_arrays(method, part.requested) for part in parts]
        content |= {key: np.concatenate([part[key] for part in kept]) for key in kept[0]}
        if kept[0]:
            content["guidance"] = np.repeat(np.asarray(weights, np.float32), each)
        counts = [part.evaluations for part in parts if part.evaluations is not None]
        if counts:
            content["evaluations"] = evaluations = np.concatenate(counts)
            say(
                f"network evaluations per sample: {np.mean(evaluations):.1f} on average, "
                f"{evaluations.min()} to {evaluations.max()} (tolerance {config.sampling.tolerance:g})"
            )
        with arrays.open("wb") as file:
            np.savez_compressed(file, **content)
        rows = STRIP_ROWS if vocabulary else STRIP_POINTS
        states = np.concatenate([part.states for part in parts], axis=1)
        pictures.save_strip(strip, states[:, :rows], images[:rows], vocabulary)
    given = [folder / f"{name}_given.png"] if _pictures(method, parts[0].requested) else []
    return [folder / f"{name}.png", *given, arrays, strip]
