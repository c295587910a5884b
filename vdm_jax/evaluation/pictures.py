"""Sample grids, noise-to-image strips and plots, saved as PNG."""

from __future__ import annotations

import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

GAP, LINE = 1, 200  # width and gray of the lines of a grid
READABLE = 16  # pixels of a row with a caption, at least
DECADES = 2  # values that span more are plotted on a log axis


class Captions(NamedTuple):
    """Texts beside a grid: in its upper left corner, above its columns, and left of its rows ('' for none)."""

    title: str = ""
    across: Sequence[str] = ()
    down: Sequence[str] = ()


def to_bytes(images: np.ndarray, vocabulary: int) -> np.ndarray:
    """Scale values 0 … V − 1 to uint8 0 … 255."""
    return np.round(np.asarray(images, np.float64) * (255 / (vocabulary - 1))).astype(np.uint8)


def square(count: int) -> int:
    """Return the number of columns of a square grid of `count` images."""
    return math.ceil(math.sqrt(count))


def grid(images: np.ndarray, columns: int | None = None, gap: int = GAP) -> np.ndarray:
    """Arrange images uint8 [N, H, W, C] in a grid, row by row, separated by light lines.

    If there are not 1 or 3 channels, their mean is shown.
    """
    if images.shape[-1] not in (1, 3):
        images = images.mean(-1, keepdims=True).astype(np.uint8)
    count, height, width, channels = images.shape
    columns = columns or square(count)
    rows = -(-count // columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), LINE, np.uint8)
    for k, image in enumerate(images):
        top, left = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def save_image(path: epath.Path, picture: np.ndarray, smallest: int = 512) -> None:
    """Write uint8 [H, W, C] as PNG; small images are enlarged by an integer factor."""
    _save(path, _image(picture, enlargement(picture, smallest)))


def enlargement(picture: np.ndarray, smallest: int = 512) -> int:
    """Return the integer factor by which `save_image` enlarges a picture."""
    return max(1, smallest // max(picture.shape[:2]))


def _image(picture: np.ndarray, scale: int) -> Image.Image:
    picture = picture.repeat(scale, 0).repeat(scale, 1)
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def _save(path: epath.Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    _write(path, buffer.getvalue())


def _write(path: epath.Path, content: bytes) -> None:
    """Write a file atomically."""
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
    """Write a grid of images with values 0 … V − 1, [N, H, W, C]."""
    save_image(path, grid(to_bytes(samples, vocabulary), columns))


def save_blocks(path: epath.Path, blocks: Sequence[np.ndarray], columns: int | None, captions: Captions) -> None:
    """Write blocks of images uint8 [N, H, W, C] below each other; each begins a new row.

    captions: `down` has one text per row of all blocks.
    """
    columns = columns or square(len(blocks[0]))
    missing = -len(blocks[0]) % columns if len(blocks) > 1 else 0
    filler = np.full((missing, *blocks[0].shape[1:]), LINE, np.uint8)
    tiles = np.concatenate([part for block in blocks for part in (block, filler)])
    picture = grid(tiles, columns)
    scale = enlargement(picture)
    if any(captions.down):
        scale = max(scale, -(-READABLE // (tiles.shape[1] + GAP)))
    height, width = (scale * (side + GAP) for side in tiles.shape[1:3])
    _save(path, captioned(_image(picture, scale), height, width, captions))


def captioned(image: Image.Image, height: int, width: int, captions: Captions) -> Image.Image:
    """Add captions in white margins to the left of and above a grid with cells of height × width pixels."""
    title, across, down = captions
    if not (title or any(across) or any(down)):
        return image
    font = _font(max(10, min(20, height // 3)))
    bounds, pad = ImageDraw.Draw(image), 4
    size = lambda text: bounds.textbbox((0, 0), text, font)[2:]
    left = 2 * pad + math.ceil(max(size(text)[0] for text in (*down, title)))
    top = 2 * pad + math.ceil(size("class 0")[1]) if title or any(across) else 0
    fits = all(size(f"class {text}")[0] < width for text in across)
    canvas = Image.new(image.mode, (left + image.width, top + image.height), "white")
    canvas.paste(image, (left, top))
    draw = ImageDraw.Draw(canvas)
    if title and not (fits and across):
        draw.text((left - pad, pad), title, "black", font, anchor="ra")
    for k, text in enumerate(across):
        draw.text((left + (k + 0.5) * width, pad), f"class {text}" if fits else text, "black", font, anchor="ma")
    for k, text in enumerate(down):
        draw.text((left - pad, top + (k + 0.5) * height), text, "black", font, anchor="rm")
    return canvas


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of the plots, which matplotlib brings along."""
    return ImageFont.truetype(pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def save_points(path: epath.Path, groups: Mapping[str, np.ndarray]) -> None:
    """Write side-by-side scatter plots of named groups of points [N, D] with shared axes."""
    figure = Figure((5 * len(groups), 5))
    rows = figure.subplots(1, len(groups), squeeze=False, sharex=True, sharey=True)
    for axes, (name, points) in zip(rows[0], groups.items(), strict=True):
        axes.scatter(*_plane(points), s=4, alpha=0.6)
        axes.set(title=f"{len(points)} {name}" if name == "samples" else name, aspect="equal")
    save_figure(path, figure)


def _plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two coordinates of points [N, D], or the only one twice if D = 1."""
    return points[:, 0], points[:, min(1, points.shape[1] - 1)]


def save_strip(path: epath.Path, states: np.ndarray, final: np.ndarray, vocabulary: int | None) -> None:
    """Write a strip from noise (left) to data (right) with one row per sample.

    Args:
      path: the file.
      states: latents z_t [K, n, …] at K times, in the units of encoded data ([−1, 1] for images).
      final: data [n, …].
      vocabulary: the number of values of a pixel, or None for points.
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
    """Plot γ(t), with the straight line between its ends, and γ′(t) for t in [0, 1].

    γ′ has a log axis if it spans more than two decades, as in the chains of DDPM.
    """
    figure = Figure((9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(t, gamma)
    left.plot(t[[0, -1]], gamma[[0, -1]], ":", color="gray")
    left.set(xlabel="t", ylabel="γ(t) = −log SNR")
    right.plot(t, dgamma)
    right.set(xlabel="t", ylabel="γ′(t)")
    if not log_if_wide(right, dgamma):
        right.set_ylim(0, None)
    save_figure(path, figure)


def log_if_wide(axes: Axes, values: np.ndarray) -> bool:
    """Set a log axis for y if the values are positive and span more than `DECADES`; return whether it is set."""
    values = values[np.isfinite(values)]
    wide = bool(len(values)) and 0 < values.min() < values.max() / 10**DECADES
    if wide:
        axes.set_yscale("log", nonpositive="clip")
    return wide


def save_loss_by_t(path: epath.Path, values: dict[str, np.ndarray], labels: Mapping[str, str], bins: int = 20) -> None:
    """Plot the diffusion loss (bits/dim) and ‖ε − ε̂‖²/D in bins of t, with standard errors.

    A term that spans more than two decades has a log axis.

    Args:
      path: the file.
      values: the terms by name; the loss is 'at_t' if examples have several times, else 'diffusion'.
      labels: the axis labels of other terms to plot instead of these two.
      bins: the number of bins of t.
    """
    t = values["t"].reshape(-1)
    loss = "at_t" if "at_t" in values else "diffusion"
    place = np.minimum((t * bins).astype(int), bins - 1)
    figure = Figure((9, 3.4), layout="constrained")
    named = {loss: "diffusion loss (bits/dim)", "error": "‖ε − ε̂‖² / D"} | dict(labels)
    for axes, (name, label) in zip(figure.subplots(1, 2), named.items(), strict=True):
        groups = [values[name].reshape(-1)[place == b] for b in range(bins)]
        mean = [g.mean() if len(g) else np.nan for g in groups]
        error = [g.std() / math.sqrt(len(g)) if len(g) else np.nan for g in groups]
        axes.errorbar((np.arange(bins) + 0.5) / bins, mean, error, fmt="o-", ms=3, lw=1)
        axes.set(xlabel="t", ylabel=label)
        log_if_wide(axes, np.asarray(mean))
    save_figure(path, figure)
