"""Safe reading of the arrays of an .npz file: every claim of its headers is checked."""

from __future__ import annotations

import zipfile
from typing import IO

import numpy as np

from vdm_jax.convert.clu import MAX_BYTES
from vdm_jax.convert.untrusted import Refused, opened, shown

# Weights are hardly compressible; a file that grows more than this does not contain weights.
MAX_GROWTH = 10
SMALL = 100 * 2**20


def read(path: str) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file by name.

    Raises:
        UserError: The file does not exist, is not an .npz file, or contains Python objects.
    """
    with opened(path, "an .npz file of numbers") as (stream, size), zipfile.ZipFile(stream) as archive:
        return _arrays(archive, size)


def _arrays(archive: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    infos = archive.infolist()
    if len({info.filename for info in infos}) < len(infos):
        raise Refused("has two arrays of one name")
    if sum(info.file_size for info in infos) > min(MAX_BYTES, max(SMALL, MAX_GROWTH * size)):
        raise Refused("has arrays that are far larger than the file")
    arrays = {}
    for info in infos:
        with archive.open(info) as stream:
            header_end, shape, fortran, dtype = _header(stream)
            if dtype.hasobject or header_end + int(np.prod(shape, dtype=object)) * dtype.itemsize != info.file_size:
                raise Refused(f"has {shown(info.filename)}, which is not the array that it claims to be")
            flat = np.frombuffer(stream.read(), dtype)
        flat = flat.astype(dtype.newbyteorder("="), copy=False)
        arrays[info.filename.removesuffix(".npy")] = flat.reshape(shape, order="F" if fortran else "C")
    return arrays


def _header(stream: IO[bytes]) -> tuple[int, tuple[int, ...], bool, np.dtype]:
    """Read a header of numpy's format: (its length, shape, Fortran order, dtype)."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"numpy's format {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if min((0, *shape)) < 0:
        raise ValueError("an axis of negative size")
    return stream.tell(), shape, fortran, dtype
