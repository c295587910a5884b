"""Samples: drawn batch by batch, as a grid, as arrays, and as a strip from noise to image."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax.evaluation import pictures
from vdm_jax.evaluation.wanted import Wanted, wanted
from vdm_jax.fields import value
from vdm_jax.methods import chains, conditioning, flows
from vdm_jax.methods.base import Method, example_keys
from vdm_jax.runtime.devices import put_batch, replicated, round_up, under
from vdm_jax.runtime.processes import placed, say

STRIP_ROWS, STRIP_POINTS, STRIP_STATES = 6, 500, 9
COLUMNS = 20  # as many classes stand beside each other in a grid


@lru_cache(maxsize=4)
def _sampler(draw: Callable[..., Any], seed: int, num_steps: int, keep: tuple[int, ...], mesh: Mesh) -> Any:
    """(params, batch of 'index', 'conditioning' and, of an upsampler, 'low', with guidance 'weight') → (samples,
    states), compiled once for all the grids of a run."""

    def run(params: Any, batch: dict[str, Array]) -> Any:
        keys = example_keys(jax.random.key(seed), batch["index"])
        told = conditioning.told(batch["conditioning"], batch.get("low"), batch.get("weight"))
        return draw(params, keys, told, num_steps, keep)

    return jax.jit(under(mesh, run), out_shardings=replicated(mesh))


class Drawn(NamedTuple):
    """Samples [N, …], the latents [K, N, …] after the K steps to keep, what the samples were to be, and the evaluations
    of the network [N], where they are not the same for all."""

    images: np.ndarray
    states: np.ndarray
    wanted: Wanted
    evaluations: np.ndarray | None


def sample(
    config: ConfigDict,
    method: Method,
    params: Any,
    mesh: Mesh,
    count: int,
    keep: tuple[int, ...] = (),
    weight: float | None = None,
) -> Drawn:
    """`count` samples and their latents after the K steps to keep.

    Image k depends on k, what it is to be (`wanted`), the seed and the guidance weight w (the first of the config
    unless one is given); every process returns all of them.
    """
    section = config.sampling
    assert method.sample is not None
    size = round_up(min(section.batch_size, count), mesh)
    run, params = _sampler(method.sample, section.seed, section.num_steps, keep, mesh), placed(params, mesh)
    share, asked = size // jax.process_count(), wanted(config, method.classes, count)
    parts = []
    for first in range(0, count, size):
        index = first + jax.process_index() * share + np.arange(share, dtype=np.int32)
        told = {"index": index, "conditioning": asked.label[index % count]}
        if asked.low is not None:
            told["low"] = np.asarray(method.encode(jnp.asarray(asked.low[index % count])))
        if any(value(config, "sampling.guidance", (0.0,))):  # one program for all weights, 0 among them
            told["weight"] = np.full(
                share, section.get("guidance", (0.0,))[0] if weight is None else weight, np.float32
            )
        batch = put_batch(mesh, told)
        parts.append(jax.device_get(run(params, batch)))
    images, paths, *counts = zip(*parts, strict=True)
    evaluations = np.concatenate(counts[0])[:count] if counts else None
    flows.check_solved(config, *([] if evaluations is None else [evaluations]))
    chains.check_finite(drawn := np.concatenate(images)[:count])
    return Drawn(drawn, np.concatenate(paths, axis=1)[:, :count], asked, evaluations)


def sample_grid(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, directory: epath.Path, step: int
) -> list[Drawn]:
    """Samples of each guidance weight, and as samples/<stem>.png.

    Labels in turn stand in columns. Of several guidance weights the first samples of each are a row. What an upsampler
    enlarged has the same places in <stem>_given.png.
    """
    section = config.sampling
    keep = tuple(np.unique(np.linspace(0, section.num_steps - 1, STRIP_STATES + 1).astype(int)[:-1]).tolist())
    parts = [
        sample(config, method, params, mesh, section.num_images, keep, weight)
        for weight in section.get("guidance", (0.0,))
    ]
    if jax.process_index() == 0:
        _save_grid(config, method, parts, directory / "samples", stem(config, step))
    return parts


def stem(config: ConfigDict, step: int) -> str:
    """What the files of samples are called: the step, their label where they have one, the scale of a classifier."""
    section = config.sampling
    label = f"_label{section.label}" if section.get("label", -1) >= 0 else ""
    return f"{step}{label}" + (f"_scale{section.classifier_scale:g}" if section.get("classifier") else "")


def _save_grid(config: ConfigDict, method: Method, parts: list[Drawn], folder: epath.Path, name: str) -> None:
    """parts: samples of each guidance weight."""
    section, vocabulary = config.sampling, config.data.vocabulary or None
    folder.mkdir(parents=True, exist_ok=True)
    if vocabulary is None:
        titles = [f"w = {weight:g}" if weight else "samples" for weight in section.get("guidance", (0.0,))]
        points = [part.images for part in parts]
        pictures.save_points(folder / f"{name}.png", dict(zip(titles, points, strict=True)))
        return
    columns = method.classes if section.get("label", -1) < 0 and 0 < method.classes <= COLUMNS else None
    first = section.num_images
    if len(parts) > 1:
        columns = first = min(first, columns or COLUMNS)
    shown = np.concatenate([part.images[:first] for part in parts])
    pictures.save_samples(folder / f"{name}.png", shown, vocabulary, columns)
    low = parts[0].wanted.low
    if low is not None:
        times = shown.shape[1] // low.shape[1]
        given = np.concatenate([low[:first].repeat(times, 1).repeat(times, 2)] * len(parts))
        pictures.save_samples(folder / f"{name}_given.png", given, vocabulary, columns)


def write_samples(
    config: ConfigDict, method: Method, params: Any, mesh: Mesh, directory: epath.Path, step: int
) -> list[epath.Path]:
    """Grid, arrays (.npz) and noise-to-image strip, and a word on what they took; returns what process 0 wrote."""
    folder, vocabulary, name = directory / "samples", config.data.vocabulary or None, stem(config, step)
    weights, each = value(config, "sampling.guidance", (0.0,)), config.sampling.num_images
    parts = sample_grid(config, method, params, mesh, directory, step)
    arrays, strip = folder / f"{name}.npz", folder / f"{name}_strip.png"
    if jax.process_index() == 0:
        images = np.concatenate([part.images for part in parts])
        content: dict[str, Any] = {"samples": images}
        if method.classes:
            content["labels"] = np.concatenate([part.wanted.label for part in parts])
            content["guidance"] = np.repeat(np.asarray(weights, np.float32), each)
        counts = [part.evaluations for part in parts if part.evaluations is not None]
        if counts:
            content["evaluations"] = evaluations = np.concatenate(counts)
            say(
                f"evaluations of the network for each sample: {np.mean(evaluations):.1f} on average, "
                f"{evaluations.min()} to {evaluations.max()} (tolerance {config.sampling.tolerance:g})"
            )
        with arrays.open("wb") as file:
            np.savez_compressed(file, **content)
        rows = STRIP_ROWS if vocabulary else STRIP_POINTS
        states = np.concatenate([part.states for part in parts], axis=1)
        pictures.save_strip(strip, states[:, :rows], images[:rows], vocabulary)
    given = [folder / f"{name}_given.png"] if value(config, "model.low_resolution", 0) and vocabulary else []
    return [folder / f"{name}.png", *given, arrays, strip]
