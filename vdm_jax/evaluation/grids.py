"""Layout of grids of samples: one block of rows per guidance weight, classes in columns, both labeled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from vdm_jax.core.method import Method
from vdm_jax.evaluation import pictures
from vdm_jax.evaluation.pictures import Captions

COLUMNS = 20  # of a grid with several guidance weights


def save_grid(
    config: ConfigDict,
    method: Method,
    images: Sequence[np.ndarray],
    requested: dict[str, np.ndarray],
    folder: epath.Path,
    name: str,
) -> None:
    """Write <name>.png with all samples, and the images that they are conditioned on as <name>_given.png.

    Args:
      config: the config.
      method: the method.
      images: the samples [N, …] of each guidance weight of `sampling.guidance`.
      requested: the requested value of each condition, [N, …].
      folder: the directory of the files.
      name: their base name.
    """
    vocabulary, weights = config.data.vocabulary or None, config.sampling.get("guidance", (0.0,))
    folder.mkdir(parents=True, exist_ok=True)
    if vocabulary is None:
        titles = [f"w = {weight:g}" if weight else "samples" for weight in weights]
        pictures.save_points(folder / f"{name}.png", dict(zip(titles, images, strict=True)))
        return
    columns = next(filter(None, (c.columns(config) for c in method.conditions)), None)
    in_turn = columns is not None
    if len(images) > 1:
        columns = min(len(images[0]), columns or COLUMNS)
    captions = _captions(weights, len(images[0]), columns, _labels(method, requested), in_turn)
    blocks = [pictures.to_bytes(block, vocabulary) for block in images]
    pictures.save_blocks(folder / f"{name}.png", blocks, columns, captions)
    for low in given(method, requested):
        times = images[0].shape[1] // low.shape[1]
        enlarged = pictures.to_bytes(low.repeat(times, 1).repeat(times, 2), vocabulary)
        pictures.save_blocks(folder / f"{name}_given.png", [enlarged] * len(images), columns, captions)


def given(method: Method, requested: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return the images that samples are conditioned on."""
    conditions = [c.picture(requested[c.name]) for c in method.conditions]
    return [images for images in conditions if images is not None]


def _labels(method: Method, requested: dict[str, np.ndarray]) -> np.ndarray | None:
    arrays = [c.arrays(requested[c.name]).get("labels") for c in method.conditions]
    return next((labels for labels in arrays if labels is not None), None)


def _captions(
    weights: Sequence[float], count: int, columns: int | None, labels: np.ndarray | None, in_turn: bool
) -> Captions:
    """Return the labels of a grid: w of guided rows, and the class of each column or the classes of each row.

    Args:
      weights: the guidance weights.
      count: the number of samples per weight.
      columns: the number of columns; None for a square grid.
      labels: the classes of the samples, [count]; None without them.
      in_turn: whether column k has one class.
    """
    columns = columns or pictures.square(count)
    rows = -(-count // columns)
    guided, ranges, title = any(weights), [""] * rows, ""
    across: tuple[str, ...] = ()
    if labels is not None and len(labels) and np.all(labels == labels[0]):
        title = f"class {labels[0]}"
    elif labels is not None and in_turn:
        across, title = tuple(str(label) for label in labels[:columns]), "class"
    elif labels is not None:
        ends = [(labels[row * columns], labels[min(count, (row + 1) * columns) - 1]) for row in range(rows)]
        ranges = [f"class {a}" if a == b else f"classes {a} to {b}" for a, b in ends]
    texts = [[f"w = {weight:g}" * guided, text] for weight in weights for text in ranges]
    return Captions(title, across, tuple(", ".join(filter(None, text)) for text in texts))
