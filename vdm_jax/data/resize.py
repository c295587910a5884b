"""Resizing of image files to data.shape while they are decoded (`data.resize`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from vdm_jax.errors import UserError

RESIZES = {
    "crop": "resized to cover {size} and center-cropped",
    "pad": "resized to fit within {size} and padded with black",
    "area": "averaged to {size}, for any aspect ratio",
    "bicubic": "interpolated to {size}, for any aspect ratio",
}


@dataclass(frozen=True)
class Resize:
    """A function that resizes an image to height × width pixels; an image of that size is unchanged.

    Attributes:
        kind: How images are resized. 'crop' fits the shorter side and crops the center, as Improved DDPM and guided
            diffusion prepare ImageNet. 'pad' fits the longer side and pads with black. 'area' averages boxes, as in the
            downsampled ImageNets of Chrabaszcz et al. (2017), and 'bicubic' interpolates; both use the complete image
            and may change its aspect ratio.
        height: The height in pixels.
        width: The width in pixels.
    """

    kind: str
    height: int
    width: int

    def __call__(self, image: Image.Image) -> Image.Image:
        """Resize an image of mode L or RGB."""
        size = self.width, self.height
        if image.size == size:
            return image
        if self.kind == "crop":
            return self._crop(image)
        if self.kind == "pad":
            return self._pad(image)
        return image.resize(size, Image.Resampling.BOX if self.kind == "area" else Image.Resampling.BICUBIC)

    def _crop(self, image: Image.Image) -> Image.Image:
        image = _halved(image, self.width, self.height)
        scale = max(self.width / image.width, self.height / image.height)
        covering = max(self.width, round(image.width * scale)), max(self.height, round(image.height * scale))
        image = image.resize(covering, Image.Resampling.BICUBIC)
        left, top = (image.width - self.width) // 2, (image.height - self.height) // 2
        return image.crop((left, top, left + self.width, top + self.height))

    def _pad(self, image: Image.Image) -> Image.Image:
        scale = min(self.width / image.width, self.height / image.height)
        inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = _halved(image, *inner).resize(inner, Image.Resampling.BICUBIC)
        canvas = Image.new(image.mode, (self.width, self.height))
        canvas.paste(image, ((self.width - inner[0]) // 2, (self.height - inner[1]) // 2))
        return canvas


def _halved(image: Image.Image, width: int, height: int) -> Image.Image:
    """Average 2 × 2 pixels while the image is at least twice as large; bicubic resizing alone would be slow."""
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return image


def make(kind: str, name: str, shape: Sequence[int] | None) -> Resize | None:
    """Return the resizing for data.resize, or None for ''.

    Args:
        kind: data.resize.
        name: data.name, which must be 'folder'.
        shape: data.shape, which must be (height, width, channels).

    Raises:
        UserError: If `kind` is unknown or can't be used with this data set.
    """
    if not kind:
        return None
    if kind not in RESIZES:
        raise UserError(f"data.resize={kind!r} is not one of '', {', '.join(map(repr, RESIZES))}")
    if name not in ("folder", "captions"):
        raise UserError(
            f"data.resize={kind!r} is for data.name='folder', whose files may be of any size, not for {name!r}; "
            "set it to ''"
        )
    if shape is None or len(shape) != 3:
        raise UserError(f"data.resize={kind!r} needs the size to resize to; set data.shape=(height, width, channels)")
    return Resize(kind, int(shape[0]), int(shape[1]))


def in_words(resize: Resize, sizes: Sequence[tuple[int, int]], count: int) -> str:
    """Describe how many images are resized and how.

    Args:
        resize: The resizing.
        sizes: The sizes (height, width) of the images that were sampled.
        count: The number of all images.
    """
    goal = resize.height, resize.width
    other = [size for size in sizes if size != goal]
    size = f"{goal[0]} × {goal[1]} pixels"
    small = sum(size[0] < goal[0] or size[1] < goal[1] for size in other)
    of = f"{len(sizes):,} images" if len(sizes) == count else f"{len(sizes):,} sampled images, of {count:,} in total,"
    enlarged = f"; {small:,} of them are smaller and enlarged" if small and resize.kind != "pad" else ""
    return (
        f"data.resize={resize.kind!r}: {len(other):,} of {of} ({span(sizes)}) are "
        f"{RESIZES[resize.kind].format(size=size)}{enlarged}"
    )


def span(sizes: Sequence[tuple[int, int]]) -> str:
    """Describe sizes (height, width), as in '8 × 8' or '3 sizes, 8 × 8 to 20 × 30'."""
    seen = sorted(Counter(sizes), key=lambda size: (size[0] * size[1], size))
    if not seen:
        return "none readable"
    first, last = (f"{height} × {width}" for height, width in (seen[0], seen[-1]))
    return first if len(seen) == 1 else f"{len(seen)} sizes, {first} to {last}"
