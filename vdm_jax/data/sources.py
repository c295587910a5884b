"""Random access to records, whatever they are stored in.

A source has `__len__` and `__getitem__(int) -> record`; a record is `{"image": uint8 [H, W, C]}`
or, for points, `{"image": float32 [D]}`, with an integer "label" where the data has labels. Sources
hold paths and offsets, never open files, so that threads can share them and they can be pickled. A
record that can't be decoded raises `Undecodable`, naming it.
"""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import fsspec
import numpy as np
from etils import epath
from PIL import Image, UnidentifiedImageError

from vdm_jax.errors import Undecodable, UserError

T = TypeVar("T")
Record = dict[str, Any]
PROBED = 16  # records tried before a data set is given up
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")


class Source(Protocol):
    """Random access to records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@dataclass(frozen=True, eq=False)
class Arrays:
    """Records in memory. images: uint8 [N, H, W, C] or float32 [N, D]; labels: int [N] or None."""

    images: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        record: Record = {"image": self.images[index]}
        if self.labels is not None:
            record["label"] = int(self.labels[index])
        return record


@dataclass(frozen=True, eq=False)
class Subset:
    """The records of `source` at `indices` [M]."""

    source: Source
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.indices[index])]


@dataclass(frozen=True, eq=False)
class Mapped:
    """The records of `source`, each image by `change`; a function that can be pickled."""

    source: Source
    change: Callable[[np.ndarray], np.ndarray]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = self.source[index]
        return record | {"image": self.change(record["image"])}

    @property
    def labels(self) -> np.ndarray | None:
        """Where they are known without reading the records."""
        return labels_of(self.source)


def labels_of(source: Any) -> np.ndarray | None:
    """All labels, int [N], where they are known without reading the records."""
    if isinstance(source, Subset):
        whole = labels_of(source.source)
        return None if whole is None else whole[source.indices]
    return getattr(source, "labels", None)


def take(source: Source, indices: np.ndarray) -> Source:
    """The records at `indices`. Arrays stay arrays, so that they can be checked as a whole."""
    if isinstance(source, Arrays):
        labels = None if source.labels is None else source.labels[indices]
        return Arrays(source.images[indices], labels)
    return Subset(source, indices)


def first_decodable(read: Callable[[int], T], count: int) -> T:
    """What `read` gives for the first of a few records that can be decoded; if none can, the first's error."""
    first: Undecodable | None = None
    for index in range(min(count, PROBED)):
        try:
            return read(index)
        except Undecodable as error:
            first = first or error
    raise first or ValueError("there are no records")


def decode_image(data: bytes, channels: int, where: str) -> np.ndarray:
    """Decode an image file to uint8 [H, W, channels], channels 1 (grey) or 3 (RGB).

    Undecodable too when eight bits a channel would lose something: 16-bit files would be clipped and
    transparency would uncover colours nobody sees.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        # Pillow's own words would name an address in memory.
        reason = "no known format" if isinstance(error, UnidentifiedImageError) else error
        raise Undecodable(f"{where} is not a readable image ({reason}); remove or replace it") from error
    if image.mode not in _EIGHT_BIT_MODES:
        raise Undecodable(f"{where} has Pillow mode {image.mode!r}; convert it to an 8-bit grey or RGB image")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            raise Undecodable(f"{where} has transparent pixels; flatten it onto a background first")
    mode = "L" if channels == 1 else "RGB"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], channels)


def _decode_sized(data: bytes, shape: tuple[int, ...], where: str) -> np.ndarray:
    image = decode_image(data, shape[-1], where)
    if image.shape != shape:
        raise Undecodable(
            f"{where} is {image.shape[0]}x{image.shape[1]} but the first image is "
            f"{shape[0]}x{shape[1]}; resize the images to one size before training"
        )
    return image


@dataclass(frozen=True, eq=False)
class Files:
    """Image files, all of one size. shape: [H, W, C] that each must decode to; labels: int [N] or None."""

    paths: Sequence[str]
    shape: tuple[int, ...]
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        record: Record = {"image": _decode_sized(_read(self.paths[index]), self.shape, self.paths[index])}
        if self.labels is not None:
            record["label"] = int(self.labels[index])
        return record


def _read(path: str) -> bytes:
    try:
        if "://" in path:
            return bytes(epath.Path(path).read_bytes())
        with open(path, "rb") as file:  # a third of the time
            return file.read()
    except FileNotFoundError as error:
        raise Undecodable(f"{path} is not there any more; put it back or start with the files there are") from error


def open_files(paths: Sequence[str], channels: int, labels: np.ndarray | None = None) -> Files:
    """Files in the given order, all of the size of the first; grey or RGB by `channels`; labels: int [N]."""
    first = first_decodable(lambda k: decode_image(_read(paths[k]), channels, paths[k]), len(paths))
    return Files(paths, first.shape, labels)


@dataclass(frozen=True, eq=False)
class Archive:
    """Image files in an uncompressed tar, read in place. offsets, sizes: int64 [N], by name."""

    path: str
    offsets: np.ndarray
    sizes: np.ndarray
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Record:
        return {"image": _decode_sized(self.read(index), self.shape, self.name(index))}

    def read(self, index: int) -> bytes:
        """The file's bytes. From a bucket exactly these, where `open` would fetch megabytes around them."""
        offset, size = int(self.offsets[index]), int(self.sizes[index])
        if "://" in self.path:
            system, path = fsspec.core.url_to_fs(self.path)
            return bytes(system.cat_file(path, start=offset, end=offset + size))
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(size)

    def name(self, index: int) -> str:
        """How messages call it."""
        return f"image {index} of {self.path}"


def open_archive(path: epath.Path, channels: int) -> Archive:
    """Index the images of a tar by one walk over its headers (a minute for a million); nothing is unpacked."""
    names, offsets, sizes = [], [], []
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else a million headers stay in memory
                if member.isfile() and is_image(member.name):
                    names.append(member.name)
                    offsets.append(member.offset_data)
                    sizes.append(member.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path} is not a whole uncompressed tar archive ({error}); fetch it again") from error
    if not names:
        raise UserError(f"{path} holds no images; expected PNG files inside it")
    order = np.asarray(sorted(range(len(names)), key=names.__getitem__))
    archive = Archive(str(path), np.asarray(offsets, np.int64)[order], np.asarray(sizes, np.int64)[order], ())
    first = first_decodable(lambda k: decode_image(archive.read(k), channels, archive.name(k)), len(names))
    return replace(archive, shape=first.shape)


def is_image(name: str) -> bool:
    """Whether the name is an image file's; hidden files (as macOS adds to archives) are not."""
    name = name.rsplit("/", 1)[-1]
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def list_images(folder: epath.Path) -> list[str]:
    """Paths of all images under `folder`, at any depth, sorted by their path inside it."""
    scheme, mark, _ = str(folder).partition("://")
    lost = scheme + mark if mark else ""  # in a bucket, `walk` leaves it out of the paths it gives

    def whole(at: epath.Path, name: str) -> str:
        path = str(at / name)
        return path if path.startswith(lost) else lost + path.lstrip("/")

    return sorted(whole(at, name) for at, _, names in folder.walk() for name in names if is_image(name))
