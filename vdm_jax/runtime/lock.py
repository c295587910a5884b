"""A lock that allows one job at a time in a working directory."""

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
    """Hold the lock of a working directory, which is created if needed.

    Process 0 takes a kernel lock (flock) on <workdir>/.lock, which is released when the process ends, even by
    SIGKILL. Buckets (gs:// and the like) have no such locks and are not locked; neither are file systems without
    flock, which are reported by a warning.

    Raises:
      UserError: another job holds the lock; the message names it.
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
            raise UserError(refusal or f"{workdir} is in use by another job; the error of process 0 names it")
        yield


@contextlib.contextmanager
def _locked(workdir: epath.Path) -> Iterator[None]:
    created = not workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        descriptor = _take(os.fspath(workdir / ".lock"))
    except OSError as error:
        raise UserError(f"{workdir} cannot be used ({error.strerror}); use another --workdir") from error
    try:
        yield
    finally:
        # Removed before it is released, so that a job that has opened it meanwhile sees that it is gone.
        (workdir / ".lock").unlink(missing_ok=True)
        os.close(descriptor)
        if created:
            with contextlib.suppress(OSError):
                os.rmdir(workdir)  # still empty: the job failed before it wrote anything


def _take(path: str) -> int:
    """Open and lock the lock file and return its descriptor; raise UserError if another job holds the lock."""
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
            logging.warning("%s cannot be locked (%s); do not start a second job in it", path, error.strerror)
            return descriptor
        if _is_at(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
            return descriptor
        os.close(descriptor)  # its owner removed the file after it was opened here


def _is_at(descriptor: int, path: str) -> bool:
    """Return whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _owner(descriptor: int) -> str:
    """Return 'process 12 on host' from the content of a lock file."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another job that is starting"
