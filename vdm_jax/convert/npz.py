"""Arrays of an .npz file, with nothing believed that its headers claim."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from typing import IO

import numpy as np
from etils import epath

from vdm_jax.convert.clu import MAX_BYTES
from vdm_jax.errors import UserError

# Weights hardly shrink when compressed; a file that grows this much is no file of weights.
MAX_GROWTH = 10
SMALL = 100 * 2**20

_DAMAGED = (ValueError, TypeError, KeyError, SyntaxError, RuntimeError, EOFError, OSError, OverflowError)


def read(path: str) -> dict[str, np.ndarray]:
    """Name → array. Raises UserError if there is no such file, it is none of numpy's, or holds objects."""
    file = epath.Path(path).expanduser()
    try:
        size = file.stat().length
        with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            return _arrays(archive, size)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give an .npz file") from None
    except ImportError as error:  # a bucket, and no library that reads buckets
        raise UserError(f"{path} cannot be reached ({error}); install that or copy the file to this disk") from None
    except (*_DAMAGED, zlib.error, zipfile.BadZipFile, tokenize.TokenError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise UserError(f"{path} is no .npz file of numbers, or damaged ({reason})") from None


def _arrays(archive: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    infos = archive.infolist()
    if len({info.filename for info in infos}) < len(infos):
        raise ValueError("two arrays have one name")
    if sum(info.file_size for info in infos) > min(MAX_BYTES, max(SMALL, MAX_GROWTH * size)):
        raise ValueError("its arrays are far larger than the file")
    arrays = {}
    for info in infos:
        with archive.open(info) as stream:
            header_end, shape, fortran, dtype = _header(stream)
            if dtype.hasobject or header_end + int(np.prod(shape, dtype=object)) * dtype.itemsize != info.file_size:
                raise ValueError(f"{info.filename} is not the array that it claims to be")
            flat = np.frombuffer(stream.read(), dtype)
        flat = flat.astype(dtype.newbyteorder("="), copy=False)
        arrays[info.filename.removesuffix(".npy")] = flat.reshape(shape, order="F" if fortran else "C")
    return arrays


def _header(stream: IO[bytes]) -> tuple[int, tuple[int, ...], bool, np.dtype]:
    """(its length, shape, Fortran order, dtype) of numpy's format."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"numpy's format {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if min((0, *shape)) < 0:
        raise ValueError("an axis of negative size")
    return stream.tell(), shape, fortran, dtype
