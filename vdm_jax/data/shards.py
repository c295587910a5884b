"""Shards of images with captions, as webdataset and img2dataset write them: uncompressed tars of `key.jpg` with
`key.txt` or `key.json`.

They are read in place, by index. Captions are read once, while the headers are walked, and stay in memory.
"""

from __future__ import annotations

import json
import posixpath
import re
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from vdm_jax.data import captioning, layout
from vdm_jax.data.captioning import Texts
from vdm_jax.data.decode import IMAGE_SUFFIXES, decode_image
from vdm_jax.data.listing import is_hidden
from vdm_jax.data.resize import Resize
from vdm_jax.data.sources import Archive, Record, decode_sized, first_decodable
from vdm_jax.errors import UserError

_READERS = 8
_BLOCK = 512  # bytes of a tar


class Shard(NamedTuple):
    """The index of a tar: offsets and sizes of the images, int64 [N], their captions and their keys, [N]."""

    path: str
    offsets: np.ndarray
    sizes: np.ndarray
    texts: list[Texts]
    keys: list[str]


@dataclass(frozen=True, eq=False)
class Shards:
    """The images of several tars: the index of the tar in `paths`, int32 [N], and offsets and sizes, int64 [N]."""

    paths: Sequence[str]
    shard: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    shape: tuple[int, ...]
    resize: Resize | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Record:
        data, where = self.read(index), self.name(index)
        return {"image": decode_sized(data, self.shape, where, self.resize)}

    def read(self, index: int) -> bytes:
        """Return the bytes of an image file."""
        return Archive(self._path(index), self.offsets, self.sizes, ()).read(index)

    def name(self, index: int) -> str:
        """Return the name of an image for messages."""
        return f"the image at byte {int(self.offsets[index]):,} of {self._path(index)}"

    def _path(self, index: int) -> str:
        return self.paths[int(self.shard[index])]


def open_shards(
    paths: Sequence[epath.Path], channels: int, resize: Resize | None = None
) -> tuple[Shards, list[Texts], list[str]]:
    """Return the images, their captions and their names; raise UserError for a truncated shard."""
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(walk, paths))
    counts = [len(shard.texts) for shard in found]
    source = Shards(
        [shard.path for shard in found],
        np.repeat(np.arange(len(found), dtype=np.int32), counts),
        np.concatenate([shard.offsets for shard in found]),
        np.concatenate([shard.sizes for shard in found]),
        (),
        resize,
    )
    decode = lambda k: decode_image(source.read(k), channels, source.name(k), resize)
    source = replace(source, shape=first_decodable(decode, len(source)).shape)
    names = [f"{posixpath.basename(shard.path)}/{key}" for shard in found for key in shard.keys]
    return source, [texts for shard in found for texts in shard.texts], names


def walk(path: epath.Path) -> Shard:
    """Index a tar by its headers and read its captions; raise UserError if it is damaged."""
    images: dict[str, tuple[int, int]] = {}
    texts: dict[str, Texts] = {}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else all headers stay in memory
                key, suffix = _split(member.name)
                if not member.isfile() or is_hidden(member.name):
                    continue
                if f".{suffix}" in IMAGE_SUFFIXES:
                    if key in images:
                        raise UserError(f"{path} has two images {key}; a pair needs a name of its own")
                    images[key] = member.offset_data, member.size
                elif suffix in ("txt", "json") and not (suffix == "json" and key in texts):
                    content = tar.extractfile(member)
                    said = _text(content.read() if content else b"", suffix, f"{member.name} in {path}")
                    texts |= {key: said} if said is not None else {}
            _check_end(file, tar.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path} is not a whole uncompressed tar shard ({error}); fetch it again") from error
    if not images:
        raise UserError(f"{path} holds no images; it should have pairs such as 0001.jpg and 0001.txt")
    for key in images:
        if key not in texts:
            raise UserError(f"the image {key} in {path} has no caption; it needs {key}.txt, or 'caption' in {key}.json")
    places = np.asarray(list(images.values()), np.int64)
    return Shard(str(path), places[:, 0], places[:, 1], [texts[key] for key in images], list(images))


def _split(name: str) -> tuple[str, str]:
    """Split a name into (key, suffix) as webdataset does: at the first dot after the folders."""
    folder, slash, rest = name.rpartition("/")
    stem, _, suffix = rest.partition(".")
    return folder + slash + stem, suffix.lower()


def _text(data: bytes, suffix: str, where: str) -> Texts | None:
    """Return the captions of a file, or None if a JSON file has none. White space becomes a single space."""
    try:
        text = data.decode("utf-8-sig")
        content = json.loads(text) if suffix == "json" else text
    except ValueError as error:
        raise UserError(f"{where} is not readable text ({error}); write it again as UTF-8") from error
    found = captioning.of_json(content) if suffix == "json" else [content]
    return None if found is None else captioning.clean([" ".join(each.split()) for each in found], where)


def _check_end(file: Any, offset: int) -> None:
    """Check that a tar ends with blocks of zeros, which a tar that is truncated between two files lacks."""
    file.seek(offset)
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError("it ends without the mark of its end")


def part_in_name(name: str) -> str:
    """Return the part that the name of a shard contains, as in 'train-000012.tar' and 'cc3m_val_07.tar'."""
    words = re.split(r"[-_.]", name)[:-1]
    return next((part for word in words if (part := layout.part_of(word))), "")
