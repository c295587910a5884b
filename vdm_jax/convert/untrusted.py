"""Safe reading of third-party files, with one-sentence errors for damaged ones."""

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
# Exceptions of zipfile, zlib and numpy for invalid archives and headers.
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
    """A file is refused; the message is the end of a sentence about the file."""


@contextmanager
def opened(path: str, wanted: str) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file on a disk or in a bucket and yield (the file, its size in bytes).

    Args:
        path: The file.
        wanted: The expected kind for error messages, such as 'a .pt file'.

    Raises:
        UserError: The file cannot be opened, or the block raises Refused or an exception that means a damaged file.
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
    """Format text from a file for a terminal, escaped and shortened to 80 characters."""
    plain = repr(text)
    return plain if len(plain) <= 80 else f"{plain[:77]}..."
