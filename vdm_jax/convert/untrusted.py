"""Files that someone else made: opening them, and saying in one sentence what is wrong with them."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from etils import epath

from vdm_jax.errors import UserError

_UNREADABLE = (FileNotFoundError, IsADirectoryError, PermissionError)
# What zipfile, zlib and numpy raise on archives and headers that make no sense.
DAMAGED = (
    ValueError,
    TypeError,
    KeyError,
    SyntaxError,
    RuntimeError,
    EOFError,
    OSError,
    OverflowError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class Refused(Exception):
    """What is wrong with a file, as the end of a sentence about it."""


@contextmanager
def opened(path: str, wanted: str) -> Iterator[tuple[IO[bytes], int]]:
    """(the file, its size in bytes), on a disk or in a bucket.

    Raises UserError if it can't be opened, or for what is raised while it is: a Refused, or an exception that tells
    of a damaged file. wanted: what it should be, 'a .pt file'.
    """
    file = epath.Path(path).expanduser()
    try:
        size = file.stat().length
        with file.open("rb") as stream:
            yield stream, size
    except UserError:
        raise
    except _UNREADABLE as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give {wanted}") from None
    except ImportError as error:  # a bucket, and no library that reads buckets
        raise UserError(f"{path} cannot be reached ({error}); install that or copy the file to this disk") from None
    except Refused as reason:
        raise UserError(f"{path} {reason}") from None
    except DAMAGED as error:
        why = f"{type(error).__name__}: {shown(str(error))}"
        raise UserError(f"{path} is damaged, or not {wanted} ({why}); copy it again") from None


def shown(text: Any) -> str:
    """Something that a file says, fit for a terminal."""
    plain = repr(text)
    return plain if len(plain) <= 80 else f"{plain[:77]}..."
