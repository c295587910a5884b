"""Backends that cannot start, and accelerators that are not used: a sentence that says what to install or unset."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

import vdm_jax
from vdm_jax.runtime import backends

ROOT = str(pathlib.Path(vdm_jax.__file__).parents[1])
OLD = (
    "Unable to initialize backend 'cuda': INTERNAL: CUDA driver version is insufficient for CUDA runtime version. "
    "(you may need to uninstall the failing plugin package, or set JAX_PLATFORMS=cpu to skip this backend.)"
)
BUSY = "Unable to initialize backend 'tpu': ABORTED: The TPU is already in use by process with pid 7. (set JAX_PLA…)"


SLOW = pytest.mark.slow


@pytest.mark.parametrize("platform", [pytest.param("cuda", marks=SLOW), pytest.param("tpu", marks=SLOW), "foo"])
def test_platform_that_is_not_there_is_one_sentence(platform: str, tmp_path: pathlib.Path) -> None:
    """The command line in a process of its own, on this machine, which has CPUs only."""
    done = subprocess.run(
        [sys.executable, "-m", "vdm_jax.main", "--config=configs/digits.py:smoke", f"--workdir={tmp_path / 'new'}"],
        env={**os.environ, "PYTHONPATH": ROOT, "JAX_PLATFORMS": platform},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == "" and not list(tmp_path.iterdir())
    assert done.stderr.startswith("vdm_jax: ") and done.stderr.count("\n") == 1
    assert f"JAX_PLATFORMS={platform}" in done.stderr and "unset JAX_PLATFORMS" in done.stderr


@pytest.mark.parametrize(
    ("requested", "said", "cuda", "gpu", "sentence"),
    [
        ("cuda", "", False, False, "JAX_PLATFORMS=cuda needs JAX for CUDA, which is not installed; pip install 'vdm"),
        ("gpu", "Unable to initialize backend 'rocm': Backend", False, False, "JAX_PLATFORMS=gpu needs JAX for CUDA"),
        ("cuda", "", True, False, "JAX_PLATFORMS=cuda, but this machine shows no NVIDIA GPU"),
        ("", OLD, True, True, "JAX cannot start on the GPU (INTERNAL: CUDA driver version is insufficient for CUDA "),
        ("tpu", BUSY, False, False, "JAX_PLATFORMS=tpu needs libtpu, which is not installed; pip install 'vdm_jax[tpu"),
        (
            "foo",
            "Unable to initialize backend 'foo': Backend 'foo' is not in the list of known backends: ['cpu'].",
            False,
            False,
            "JAX_PLATFORMS=foo: JAX has no platform 'foo' here; set it to cpu, cuda or tpu, or unset JAX_PLATFORMS",
        ),
    ],
)
def test_reason_names_what_to_install_or_unset(
    requested: str, said: str, cuda: bool, gpu: bool, sentence: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(backends, "has_cuda", lambda: cuda)
    monkeypatch.setattr(backends, "has_gpu", lambda: gpu)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    found = backends._reason(requested, said)
    assert found.startswith(sentence)
    if said == OLD:
        assert found.endswith("runtime version); update the NVIDIA driver, free the GPU, or set JAX_PLATFORMS=cpu")


def test_accelerators_that_jax_does_not_use_are_named(monkeypatch: Any) -> None:
    monkeypatch.setattr(backends, "has_cuda", lambda: False)
    monkeypatch.setattr(backends, "has_gpu", lambda: True)
    assert backends.unused() == ""  # JAX_PLATFORMS=cpu, as in the tests, is a choice
    monkeypatch.setattr(backends, "requested", lambda: "")
    assert "NVIDIA GPU, but JAX is installed for CPUs only; pip install 'vdm_jax[cuda]'" in backends.unused()
    monkeypatch.setattr(backends, "has_cuda", lambda: True)
    assert "JAX finds no GPU" in backends.unused()
    monkeypatch.setattr(backends, "has_gpu", lambda: False)
    monkeypatch.setattr(backends.shutil, "which", lambda name: None)
    monkeypatch.setattr(backends.glob, "glob", lambda pattern: [])
    assert backends.unused() == ""
