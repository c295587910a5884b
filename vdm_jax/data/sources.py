"""Sources: random access to records for every kind of storage.

A source has `__len__` and `__getitem__(int) -> record`. A record is `{"image": uint8 [H, W, C]}` or, for points,
`{"image": float32 [D]}`, with an integer "label" if the data set has labels. Sources store paths and offsets, never
open files, so that threads can share them and they can be pickled. A record that can't be decoded raises `Undecodable`
with its name.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import fsspec
import numpy as np
from etils import epath

from vdm_jax.data.decode import decode_image
from vdm_jax.data.listing import is_image
from vdm_jax.data.resize import Resize
from vdm_jax.errors import Undecodable, UserError

T = TypeVar("T")
Record = dict[str, Any]
PROBED = 16  # the number of records that are tried before a data set is rejected


class Source(Protocol):
    """A sequence of records with random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@dataclass(frozen=True, eq=False)
class Arrays:
    """Records in memory.

    Attributes:
        images: uint8 [N, H, W, C] or float32 [N, D].
        labels: int [N], or None.
        no_labels: The reason if labels exist but can't be used.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    no_labels: str = ""

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
    """The records of `source` with the function `change`, which must be picklable, applied to each image."""

    source: Source
    change: Callable[[np.ndarray], np.ndarray]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = self.source[index]
        return record | {"image": self.change(record["image"])}

    @property
    def labels(self) -> np.ndarray | None:
        """All labels, int [N], if they are known without reading the records."""
        return labels_of(self.source)


def labels_of(source: Any) -> np.ndarray | None:
    """Return all labels, int [N], or None if they are not known without reading the records."""
    if isinstance(source, Subset):
        labels = labels_of(source.source)
        return None if labels is None else labels[source.indices]
    return getattr(source, "labels", None)


def trait(source: Any, name: str, default: T) -> T:
    """Return the attribute `name`, such as 'class_names', of the outermost source that has it, or `default`."""
    while not hasattr(source, name) and hasattr(source, "source"):
        source = source.source
    value: T = getattr(source, name, default)
    return value


def take(source: Source, indices: np.ndarray) -> Source:
    """Return a source of the records at `indices`; arrays stay arrays, so that they can be checked at once."""
    if isinstance(source, Arrays):
        labels = None if source.labels is None else source.labels[indices]
        return Arrays(source.images[indices], labels, source.no_labels)
    return Subset(source, indices)


def first_decodable(read: Callable[[int], T], count: int) -> T:
    """Return the result of `read` for the first decodable record of at most PROBED.

    Raises:
        Undecodable: If none of them can be decoded; the error is that of the first record.
    """
    first: Undecodable | None = None
    for index in range(min(count, PROBED)):
        try:
            return read(index)
        except Undecodable as error:
            first = first or error
    raise first or ValueError("there are no records")


class OtherSize(Undecodable):
    """An error for an image whose size differs from the first image's."""


def decode_sized(data: bytes, shape: tuple[int, ...], where: str, resize: Resize | None = None) -> np.ndarray:
    """Decode an image file, and raise OtherSize unless it has `shape`."""
    image = decode_image(data, shape[-1], where, resize)
    if image.shape != shape:
        raise OtherSize(
            f"{where} is {image.shape[0]}x{image.shape[1]} but the first image is {shape[0]}x{shape[1]}; use "
            "images of one size, or set --config.data.resize='crop' (or 'pad', 'area', 'bicubic')"
        )
    return image


@dataclass(frozen=True, eq=False)
class Files:
    """Image files that have or are resized to one size.

    Attributes:
        paths: The paths of the files.
        shape: The shape [H, W, C] of every decoded image.
        labels: int [N], or None.
        resize: The resizing, if any.
        no_labels: The reason if there are no labels.
        class_names: The name of each label.
        listed: The description of the folder's files that `identity` records.
        cost: The number of values that are decoded for a record, if it is more than that of `shape`.
    """

    paths: Sequence[str]
    shape: tuple[int, ...]
    labels: np.ndarray | None = None
    resize: Resize | None = None
    no_labels: str = ""
    class_names: Mapping[int, str] = field(default_factory=dict)
    listed: Mapping[str, int | str] = field(default_factory=dict)
    cost: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        image = decode_sized(read_file(self.paths[index]), self.shape, self.paths[index], self.resize)
        record: Record = {"image": image}
        if self.labels is not None:
            record["label"] = int(self.labels[index])
        return record


def read_file(path: str) -> bytes:
    """Read a file's bytes.

    Raises:
        Undecodable: If the file does not exist or can't be read.
    """
    try:
        if "://" in path:
            return bytes(epath.Path(path).read_bytes())
        with open(path, "rb") as file:  # takes a third of epath's time
            return file.read()
    except FileNotFoundError as error:
        raise Undecodable(
            f"{path} does not exist any more; restore it or start a new run with the files that exist"
        ) from error
    except PermissionError as error:
        raise Undecodable(f"{path} can't be read ({error.strerror}); change its permissions or remove it") from error


def open_files(
    paths: Sequence[str], channels: int, labels: np.ndarray | None = None, resize: Resize | None = None
) -> Files:
    """Open image files, in the order of `paths`, as a source.

    Args:
        paths: The paths of the files.
        channels: 1 for gray or 3 for RGB.
        labels: int [N], or None.
        resize: The resizing; with None, every file must have the size of the first.

    Raises:
        Undecodable: If none of the first few files can be decoded.
    """
    first = first_decodable(lambda k: decode_image(read_file(paths[k]), channels, paths[k], resize), len(paths))
    return Files(paths, first.shape, labels, resize)


@dataclass(frozen=True, eq=False)
class Archive:
    """Image files in an uncompressed tar archive, read in place; offsets and sizes are int64 [N], in bytes."""

    path: str
    offsets: np.ndarray
    sizes: np.ndarray
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Record:
        return {"image": decode_sized(self.read(index), self.shape, self.name(index))}

    def read(self, index: int) -> bytes:
        """Read the bytes of one file; from a bucket exactly these, as `open` would download megabytes around them."""
        offset, size = int(self.offsets[index]), int(self.sizes[index])
        if "://" in self.path:
            system, path = fsspec.core.url_to_fs(self.path)
            return bytes(system.cat_file(path, start=offset, end=offset + size))
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(size)

    def name(self, index: int) -> str:
        """Return the name of an image for messages."""
        return f"image {index} of {self.path}"


def open_archive(path: epath.Path, channels: int) -> Archive:
    """Index the images of a tar archive in one pass over its headers (a minute for a million), without unpacking.

    Args:
        path: The archive.
        channels: 1 for gray or 3 for RGB.

    Raises:
        UserError: If the archive is incomplete or compressed, or has no images.
    """
    names, offsets, sizes = [], [], []
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # otherwise a million headers stay in memory
                if member.isfile() and is_image(member.name):
                    names.append(member.name)
                    offsets.append(member.offset_data)
                    sizes.append(member.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path} is not a complete uncompressed tar archive ({error}); download it again") from error
    if not names:
        raise UserError(f"{path} holds no images; expected PNG files inside it")
    order = np.asarray(sorted(range(len(names)), key=names.__getitem__))
    archive = Archive(str(path), np.asarray(offsets, np.int64)[order], np.asarray(sizes, np.int64)[order], ())
    first = first_decodable(lambda k: decode_image(archive.read(k), channels, archive.name(k)), len(names))
    return replace(archive, shape=first.shape)
