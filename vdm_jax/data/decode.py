"""Image files to pixels: exactly, the way up that a viewer shows, and of another size where that is set."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, UnidentifiedImageError

from vdm_jax.data.resize import Resize
from vdm_jax.errors import Undecodable

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
SIZED = {False: 2000, True: 64}  # files whose header is read for their size, on a disk and in a bucket
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_METADATA = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # where Pillow looks for an orientation
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 258  # of EXIF, of TIFF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(data: bytes, channels: int, where: str, resize: Resize | None = None) -> np.ndarray:
    """Decode an image file to uint8 [H, W, channels], channels 1 (grey) or 3 (RGB), turned as its EXIF data says.

    Undecodable too when eight bits a channel would lose something: 16-bit files would be cut to their high bytes and
    transparency would uncover colors nobody sees.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        deep = _has_deep_color(image)
        image.load()
    except _UNREADABLE as error:
        # Pillow's own words would name an address in memory.
        reason = "no known format" if isinstance(error, UnidentifiedImageError) else error
        raise Undecodable(f"{where} is not a readable image ({reason}); remove or replace it") from error
    if image.mode not in _EIGHT_BIT_MODES:
        raise Undecodable(f"{where} has Pillow mode {image.mode!r}; convert it to an 8-bit grey or RGB image")
    if deep:
        raise Undecodable(f"{where} has 16 bits a channel, of which 8 would be lost; convert it to 8 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            raise Undecodable(f"{where} has transparent pixels; flatten it onto a background first")
    image = _upright(image)
    mode = "L" if channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    pixels = np.asarray(image if resize is None else resize(image))
    return pixels.reshape(*pixels.shape[:2], channels)


def _has_deep_color(image: Image.Image) -> bool:
    """Whether an image, not loaded yet, has color channels of more than 8 bits, which Pillow would cut."""
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        return bool(max(tags.get(_BITS_PER_SAMPLE, (8,))) > 8)
    tiles: Any = getattr(image, "tile", None)
    how = tiles[0][3] if tiles else None  # arguments of Pillow's decoder
    if image.format == "PPM":
        return isinstance(how, tuple) and isinstance(how[-1], int) and how[-1] > 255  # (mode, highest value)
    return ";16B" in str(how)  # as in 'RGB;16B' of PNG


def _upright(image: Image.Image) -> Image.Image:
    """A loaded image turned as its orientation says, if that is readable; Pillow has turned a TIFF already."""
    if not any(key in image.info for key in _METADATA):
        return image
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow's parsers of EXIF and XMP raise many kinds
        return 1
    return value if isinstance(value, int) else 1


def sizes(paths: Sequence[str]) -> list[tuple[int, int]]:
    """(height, width) as a viewer shows them, from the headers of at most SIZED of these files, evenly spread.

    Without those that cannot be read.
    """
    most = min(len(paths), SIZED["://" in paths[0]])
    chosen = np.unique(np.linspace(0, len(paths) - 1, most).astype(int))
    return [size for k in chosen if (size := _size(paths[k])) is not None]


def _size(path: str) -> tuple[int, int] | None:
    try:
        with Image.open(io.BytesIO(epath.Path(path).read_bytes()) if "://" in path else path) as image:
            width, height = image.size
            lies = image.format != "TIFF" and _orientation(image) >= 5  # Pillow gives a TIFF's size turned
    except _UNREADABLE:
        return None
    return (width, height) if lies else (height, width)
