"""Sample grids, the strip from noise to image, and plots, as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping

import matplotlib
import numpy as np
from etils import epath
from matplotlib.figure import Figure
from PIL import Image


def to_bytes(images: np.ndarray, vocabulary: int) -> np.ndarray:
    """Levels 0 … V−1 → uint8 0 … 255."""
    return np.round(np.asarray(images, np.float64) * (255 / (vocabulary - 1))).astype(np.uint8)


def grid(images: np.ndarray, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """uint8 [N, H, W, C] → one picture, row by row, light lines between; channels other than 1 or 3
    are shown as their mean."""
    if images.shape[-1] not in (1, 3):
        images = images.mean(-1, keepdims=True).astype(np.uint8)
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 200, np.uint8)
    for k, image in enumerate(images):
        top, left = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def save_image(path: epath.Path, picture: np.ndarray, smallest: int = 512) -> None:
    """Write uint8 [H, W, C] as PNG, enlarged by whole numbers so that small images can be seen."""
    scale = max(1, smallest // max(picture.shape[:2]))
    picture = picture.repeat(scale, 0).repeat(scale, 1)
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    _write(path, buffer.getvalue())


def _write(path: epath.Path, content: bytes) -> None:
    """In one replacement: a picture that is there is whole."""
    scratch = path.parent / (path.name + ".tmp")
    scratch.write_bytes(content)
    scratch.replace(path)


def save_figure(path: epath.Path, figure: Figure) -> None:
    """Write a matplotlib figure as PNG."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"savefig.dpi": 120}):
        figure.savefig(buffer, format="png", bbox_inches="tight")
    _write(path, buffer.getvalue())


def save_samples(path: epath.Path, samples: np.ndarray, vocabulary: int, columns: int | None = None) -> None:
    """A grid of images, levels [N, H, W, C]."""
    save_image(path, grid(to_bytes(samples, vocabulary), columns))


def save_points(path: epath.Path, groups: Mapping[str, np.ndarray]) -> None:
    """Scatter plots of points [N, D] beside each other, each under its name, on the same axes."""
    figure = Figure((5 * len(groups), 5))
    rows = figure.subplots(1, len(groups), squeeze=False, sharex=True, sharey=True)
    for axes, (name, points) in zip(rows[0], groups.items(), strict=True):
        axes.scatter(*_plane(points), s=4, alpha=0.6)
        axes.set(title=f"{len(points)} {name}" if name == "samples" else name, aspect="equal")
    save_figure(path, figure)


def _plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two coordinates of points [N, D]; of a line, its only one twice."""
    return points[:, 0], points[:, min(1, points.shape[1] - 1)]


def save_strip(path: epath.Path, states: np.ndarray, final: np.ndarray, vocabulary: int | None) -> None:
    """From noise (left) to data (right): one row per sample.

    states: latents z_t [K, n, …] at K times, in the units of encoded data ([−1, 1] for images);
    final: data [n, …].
    """
    if vocabulary is None:
        figure = Figure((2.2 * (len(states) + 1), 2.4))
        for axes, points in zip(figure.subplots(1, len(states) + 1), [*states, final], strict=True):
            axes.scatter(*_plane(points), s=2, alpha=0.6)
            axes.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])
        save_figure(path, figure)
        return
    pixels = np.clip((states + 1) / 2 * vocabulary - 0.5, 0, vocabulary - 1)
    columns = np.concatenate([pixels, final[None]]).swapaxes(0, 1)
    save_image(path, grid(to_bytes(columns.reshape(-1, *final.shape[1:]), vocabulary), len(states) + 1))


def save_schedule(path: epath.Path, t: np.ndarray, gamma: np.ndarray, dgamma: np.ndarray) -> None:
    """γ(t), beside the line between its ends, and γ′(t); t from 0 to 1."""
    figure = Figure((9, 3.4))
    left, right = figure.subplots(1, 2)
    left.plot(t, gamma)
    left.plot(t[[0, -1]], gamma[[0, -1]], ":", color="grey")
    left.set(xlabel="t", ylabel="γ(t) = −log SNR")
    right.plot(t, dgamma)
    right.set(xlabel="t", ylabel="γ′(t)", ylim=(0, None))
    save_figure(path, figure)


def save_loss_by_t(path: epath.Path, values: dict[str, np.ndarray], labels: Mapping[str, str], bins: int = 20) -> None:
    """Diffusion loss (bits/dim) and ‖ε − ε̂‖²/D by t, in bins, with standard errors.

    The loss is 'at_t' where an example has several times, else 'diffusion'. labels: where the two are something else.
    """
    t = values["t"].reshape(-1)
    loss = "at_t" if "at_t" in values else "diffusion"
    place = np.minimum((t * bins).astype(int), bins - 1)
    figure = Figure((9, 3.4))
    named = {loss: "diffusion loss (bits/dim)", "error": "‖ε − ε̂‖² / D"} | dict(labels)
    for axes, (name, label) in zip(figure.subplots(1, 2), named.items(), strict=True):
        groups = [values[name].reshape(-1)[place == b] for b in range(bins)]
        mean = [g.mean() if len(g) else np.nan for g in groups]
        error = [g.std() / math.sqrt(len(g)) if len(g) else np.nan for g in groups]
        axes.errorbar((np.arange(bins) + 0.5) / bins, mean, error, fmt="o-", ms=3, lw=1)
        axes.set(xlabel="t", ylabel=label)
    save_figure(path, figure)
