"""Decode image files to pixels without loss, in the orientation that a viewer shows, and optionally resized."""

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
SIZED = {False: 2000, True: 64}  # the number of files whose headers are read for sizes, on disk and in a bucket
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_METADATA = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # where Pillow looks for an orientation
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 258  # tags of EXIF and of TIFF
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
    """Decode an image file to uint8 [H, W, channels], rotated by the orientation in its metadata.

    Args:
        data: The bytes of the file.
        channels: 1 (gray) or 3 (RGB).
        where: The name of the file for messages.
        resize: The resizing that is applied, if any.

    Raises:
        Undecodable: If the file is not a readable image, or if 8 bits per channel would lose information: 16-bit
            values would be truncated, and dropping transparency would reveal colors that no viewer shows.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        deep = _has_deep_color(image)
        image.load()
    except _UNREADABLE as error:
        # Pillow's own message would contain a memory address.
        reason = "no known format" if isinstance(error, UnidentifiedImageError) else error
        raise Undecodable(f"{where} is not a readable image ({reason}); remove or replace it") from error
    if image.mode not in _EIGHT_BIT_MODES:
        raise Undecodable(f"{where} has Pillow mode {image.mode!r}; convert it to an 8-bit gray or RGB image")
    if deep:
        raise Undecodable(
            f"{where} has 16 bits per channel, and 8 of them would be lost; convert it to 8 bits per channel"
        )
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
    """Return whether an image, before loading, has color channels of more than 8 bits, which Pillow would truncate."""
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        return bool(max(tags.get(_BITS_PER_SAMPLE, (8,))) > 8)
    tiles: Any = getattr(image, "tile", None)
    how = tiles[0][3] if tiles else None  # arguments of Pillow's decoder
    if image.format == "PPM":
        return isinstance(how, tuple) and isinstance(how[-1], int) and how[-1] > 255  # (mode, highest value)
    return ";16B" in str(how)  # as in 'RGB;16B' of PNG


def _upright(image: Image.Image) -> Image.Image:
    """Rotate a loaded image by its orientation, if that is readable; Pillow has already rotated a TIFF."""
    if not any(key in image.info for key in _METADATA):
        return image
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 (upright) if it is unreadable."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow's parsers of EXIF and XMP raise many kinds
        return 1
    return value if isinstance(value, int) else 1


def sizes(paths: Sequence[str]) -> list[tuple[int, int]]:
    """Read the displayed sizes (height, width) from the headers of at most SIZED of the files, evenly spread.

    Files that cannot be read are skipped.
    """
    most = min(len(paths), SIZED["://" in paths[0]])
    chosen = np.unique(np.linspace(0, len(paths) - 1, most).astype(int))
    return [size for k in chosen if (size := _size(paths[k])) is not None]


def _size(path: str) -> tuple[int, int] | None:
    """Return the displayed (height, width) of an image file; None if it cannot be read."""
    try:
        with Image.open(io.BytesIO(epath.Path(path).read_bytes()) if "://" in path else path) as image:
            width, height = image.size
            sideways = image.format != "TIFF" and _orientation(image) >= 5  # Pillow reports a TIFF's rotated size
    except _UNREADABLE:
        return None
    return (width, height) if sideways else (height, width)
