"""Image files to pixels: what a viewer shows, or refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vdm_jax.data.decode import decode_image, sizes
from vdm_jax.errors import Undecodable

ORIENTATION = 0x0112
PIXELS = (np.arange(3 * 4, dtype=np.uint8).reshape(3, 4, 1) * 20).repeat(3, axis=2)
# what each orientation says has to be done to the stored pixels (EXIF 2.3, 4.6.4)
SHOWN = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.transpose(1, 0, 2),
    6: np.rot90(PIXELS, -1),
    7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PIXELS),
}


def _bytes(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _oriented(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    return _bytes(Image.fromarray(PIXELS), kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_turned_as_their_orientation_says(tmp_path, kind, orientation):
    content = _oriented(kind, orientation)
    found = decode_image(content, 3, "x").astype(int)
    np.testing.assert_allclose(found, SHOWN[orientation], atol=3 if kind == "JPEG" else 0)
    np.testing.assert_allclose(decode_image(content, 1, "x")[..., 0], found[..., 0], atol=1)
    (tmp_path / "x").write_bytes(content)
    assert sizes([str(tmp_path / "x")]) == [SHOWN[orientation].shape[:2]]


def test_an_orientation_in_xmp_is_obeyed():
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    content = _bytes(Image.fromarray(PIXELS), "WEBP", lossless=True, xmp=packet)
    np.testing.assert_array_equal(decode_image(content, 3, "x"), SHOWN[6])


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_damaged_metadata_leaves_the_pixels(exif):
    content = _bytes(Image.fromarray(PIXELS), "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(content, 3, "x"), PIXELS)


# ---------------------------------------------------------------- 16 bits

DEEP = (np.arange(64, dtype=">u2").reshape(8, 8, 1) * 4).repeat(3, 2)


def _png16(pixels: np.ndarray) -> bytes:
    """PNG of 16 bits a channel, uint16 [H, W, 2, 3 or 4]."""
    height, width, channels = pixels.shape
    color = {2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _tiff16(pixels: np.ndarray) -> bytes:
    """Uncompressed little-endian TIFF of 16-bit RGB."""
    height, width, _ = pixels.shape
    body = pixels.astype("<u2").tobytes()
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8 + len(body)), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 8), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(body)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    bits = struct.pack("<3H", 16, 16, 16)
    return b"II*\0" + struct.pack("<I", 8 + len(body) + len(bits)) + body + bits + directory + b"\0\0\0\0"


@pytest.mark.parametrize(
    "content",
    [
        b"P6\n8 8\n65535\n" + DEEP.tobytes(),
        b"P6\n8 8\n1023\n" + DEEP.tobytes(),
        b"P3\n1 1\n65535\n1 2 300\n",
        _png16(DEEP),
        _png16(np.full((8, 8, 4), 65535)),
        _png16(np.full((8, 8, 2), 65535)),
        _tiff16(DEEP),
    ],
    ids=["ppm", "ppm of 10 bits", "plain ppm", "png", "png with alpha", "gray png with alpha", "tiff"],
)
def test_color_of_16_bits_is_not_cut_to_its_high_byte(content):
    with pytest.raises(Undecodable, match=r"^x has 16 bits per channel, and 8 of them would be lost; convert it"):
        decode_image(content, 3, "x")


@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP", "TIFF", "WEBP"])
def test_color_of_8_bits_is_exact(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode_image(_bytes(Image.fromarray(PIXELS), kind, **options), 3, "x"), PIXELS)


def test_bitmaps_of_16_bits_a_pixel_have_8_a_channel():
    rows = np.array([[0x7FFF, 0], [0x001F, 0x7C00]], "<u2")  # white, black; blue, red, upwards
    header = (
        b"BM" + struct.pack("<IHHI", 54 + 8, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 0, 8, 0, 0, 0, 0)
    )
    found = decode_image(header + rows.tobytes(), 3, "x")
    assert found.tolist() == [[[0, 0, 255], [255, 0, 0]], [[255, 255, 255], [0, 0, 0]]]
