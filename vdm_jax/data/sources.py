"""Random access to records, whatever they are stored in.

A source has `__len__` and `__getitem__(int) -> record`; a record is `{"image": uint8 [H, W, C]}`
or, for points, `{"image": float32 [D]}`, with an integer "label" where the data has labels. Sources
hold paths and offsets, never open files, so that threads can share them and they can be pickled. A
record that can't be decoded raises `Undecodable`, naming it.
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
PROBED = 16  # records tried before a data set is given up


class Source(Protocol):
    """Random access to records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@dataclass(frozen=True, eq=False)
class Arrays:
    """Records in memory. images: uint8 [N, H, W, C] or float32 [N, D]; labels: int [N] or None.

    no_labels: why labels that are there cannot be used.
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


def trait(source: Any, name: str, default: T) -> T:
    """What the innermost source says of itself under that name, such as its class names."""
    while not hasattr(source, name) and hasattr(source, "source"):
        source = source.source
    found: T = getattr(source, name, default)
    return found


def take(source: Source, indices: np.ndarray) -> Source:
    """The records at `indices`. Arrays stay arrays, so that they can be checked as a whole."""
    if isinstance(source, Arrays):
        labels = None if source.labels is None else source.labels[indices]
        return Arrays(source.images[indices], labels, source.no_labels)
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


class OtherSize(Undecodable):
    """An image of another size than the others."""


def decode_sized(data: bytes, shape: tuple[int, ...], where: str, resize: Resize | None = None) -> np.ndarray:
    """An image file as uint8 [H, W, C] = shape; OtherSize if it is of another size and not resized."""
    image = decode_image(data, shape[-1], where, resize)
    if image.shape != shape:
        raise OtherSize(
            f"{where} is {image.shape[0]}x{image.shape[1]} but the first image is {shape[0]}x{shape[1]}; images are to "
            "be of one size, or made so by --config.data.resize='crop' (or 'pad', 'area', 'bicubic')"
        )
    return image


@dataclass(frozen=True, eq=False)
class Files:
    """Image files of one size, or made so. shape: [H, W, C] that each must decode to; labels: int [N] or None.

    no_labels: why there are none. class_names: of the labels. listed: what `identity` says of the folder's files.
    cost: values decoded for a record, where it is more than the shape says.
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
    """A file's bytes; Undecodable if it is gone or closed to us."""
    try:
        if "://" in path:
            return bytes(epath.Path(path).read_bytes())
        with open(path, "rb") as file:  # a third of the time
            return file.read()
    except FileNotFoundError as error:
        raise Undecodable(f"{path} is not there any more; put it back or start with the files there are") from error
    except PermissionError as error:
        raise Undecodable(f"{path} can't be read ({error.strerror}); change its permissions or remove it") from error


def open_files(
    paths: Sequence[str], channels: int, labels: np.ndarray | None = None, resize: Resize | None = None
) -> Files:
    """Files in the given order, all of the size of the first or resized; grey or RGB by `channels`; labels: int [N]."""
    first = first_decodable(lambda k: decode_image(read_file(paths[k]), channels, paths[k], resize), len(paths))
    return Files(paths, first.shape, labels, resize)


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
        return {"image": decode_sized(self.read(index), self.shape, self.name(index))}

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
