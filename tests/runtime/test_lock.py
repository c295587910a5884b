"""One job on a directory: the second is refused, the end of the first frees it, SIGKILL too."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from etils import epath

from vdm_jax.errors import UserError
from vdm_jax.runtime import lock

HOLD = """
import sys, time
from etils import epath
from vdm_jax.runtime import lock
with lock.hold(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def other_job(directory: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_second_job_is_told_who_has_it_until_the_first_is_killed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with other_job(tmp_path) as first:
        told = rf"{tmp_path} is in use by process {first.pid} on {socket.gethostname()}; wait for it, stop it, or use"
        with pytest.raises(UserError, match=told), lock.hold(epath.Path(tmp_path)):
            raise AssertionError("two jobs have it")
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert (tmp_path / ".lock").exists()  # the file stays, the lock does not
    with lock.hold(epath.Path(tmp_path)):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_same_process_is_refused_too_and_its_end_frees(tmp_path: pathlib.Path) -> None:
    directory = epath.Path(tmp_path / "a" / "run")
    for _ in range(2):
        with lock.hold(directory):
            with pytest.raises(UserError, match=f"process {os.getpid()} "), lock.hold(directory):
                raise AssertionError("two jobs have it")
            (directory / "kept").write_text("")
        assert [path.name for path in directory.iterdir()] == ["kept"]


def test_a_new_directory_in_which_nothing_was_made_is_gone_again(tmp_path: pathlib.Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), lock.hold(epath.Path(tmp_path / "new")):
        assert (tmp_path / "new" / ".lock").exists()
        raise KeyboardInterrupt
    assert not (tmp_path / "new").exists()


def test_buckets_are_not_locked() -> None:
    with lock.hold(epath.Path("gs://bucket/run")), lock.hold(epath.Path("gs://bucket/run")):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 3}'])
def test_an_owner_that_has_not_said_its_name_yet(text: str, tmp_path: pathlib.Path) -> None:
    with lock.hold(epath.Path(tmp_path)):
        (tmp_path / ".lock").write_text(text)
        with pytest.raises(UserError, match="in use by another job that is starting"):
            lock.hold(epath.Path(tmp_path)).__enter__()


def test_a_file_system_without_locks_is_warned_of(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    said: list[str] = []
    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    monkeypatch.setattr(lock.logging, "warning", lambda text, *values: said.append(text % values))
    with lock.hold(epath.Path(tmp_path)):
        pass
    assert said == [f"{tmp_path}/.lock cannot be locked (Operation not supported); do not start a second job in it"]


def test_a_place_that_cannot_be_made_is_a_sentence(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/run cannot be used"), lock.hold(epath.Path(tmp_path / "file" / "run")):
        raise AssertionError("there is no such place")


def test_of_many_at_once_one_has_it(tmp_path: pathlib.Path) -> None:
    having, most, refused = [0], [0], [0]
    guard = threading.Lock()

    def job() -> None:
        for _ in range(50):
            try:
                with lock.hold(epath.Path(tmp_path)):
                    with guard:
                        having[0] += 1
                        most[0] = max(most[0], having[0])
                    with guard:
                        having[0] -= 1
            except UserError:
                with guard:
                    refused[0] += 1

    threads = [threading.Thread(target=job) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1 and refused[0] < 8 * 50
