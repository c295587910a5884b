"""One job on a working directory at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from vdm_jax.errors import UserError

_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextlib.contextmanager
def hold(workdir: epath.Path) -> Iterator[None]:
    """Keep other jobs out of a directory; UserError naming the job that has it.

    To be entered once the directory is known to be fit: it is made if it is new. A kernel's lock
    (flock) on <workdir>/.lock that process 0 takes: the end of the process frees it, SIGKILL too.
    Nothing is locked in a bucket (gs:// and the like), which have no such locks, nor on a file
    system without them, where a warning says so.
    """
    if "://" in os.fspath(workdir):
        yield
        return
    with contextlib.ExitStack() as stack:
        refusal = ""
        if jax.process_index() == 0:
            try:
                stack.enter_context(_locked(workdir))
            except UserError as error:
                refusal = str(error)
        if multihost_utils.broadcast_one_to_all(np.int32(bool(refusal))):
            raise UserError(refusal or f"{workdir} is in use by another job; process 0 says by which")
        yield


@contextlib.contextmanager
def _locked(workdir: epath.Path) -> Iterator[None]:
    made = not workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        descriptor = _take(os.fspath(workdir / ".lock"))
    except OSError as error:
        raise UserError(f"{workdir} cannot be used ({error.strerror}); use another --workdir") from error
    try:
        yield
    finally:
        # Removed before it is freed: whoever opened it meanwhile sees that it is no longer there.
        (workdir / ".lock").unlink(missing_ok=True)
        os.close(descriptor)
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(workdir)  # still empty: the job failed before it wrote anything


def _take(path: str) -> int:
    """The descriptor of the lock file, locked; UserError if another job has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                owner = _owner(descriptor)
                os.close(descriptor)
                raise UserError(
                    f"{os.path.dirname(path)} is in use by {owner}; wait for it, stop it, or use another --workdir"
                ) from None
            logging.warning("%s cannot be locked (%s); start no second job on it", path, error.strerror)
            return descriptor
        if _is_at(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
            return descriptor
        os.close(descriptor)  # its owner removed it between our opening and our locking it


def _is_at(descriptor: int, path: str) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _owner(descriptor: int) -> str:
    """'process 12 on host', as far as the lock file says so."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another job that is just starting"
