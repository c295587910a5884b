"""Starting JAX's backend, with one sentence if it cannot start, and accelerators of a machine that JAX does not use."""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import shutil

import jax

from vdm_jax.errors import UserError

_GPU_FILES = ("/dev/nvidia0", "/dev/dxg")  # /dev/dxg: Windows Subsystem for Linux
_CUDA_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
_DETAIL = 200  # characters of JAX's message that are shown


def start() -> None:
    """Start the backend of JAX, which happens on first use otherwise.

    Raises:
      UserError: the backend of JAX_PLATFORMS, or the one that JAX chooses, cannot start.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that it found a device
        raise UserError(_reason(requested(), str(error))) from error


def _reason(wanted: str, said: str) -> str:
    """Return the sentence for a backend that cannot start.

    Args:
      wanted: the value of JAX_PLATFORMS, '' if it is not set.
      said: JAX's message.
    """
    failed = re.search(r"Unable to initialize backend '(\w+)': (.*?)(?: \((?:set|you may).*)?$", said, re.DOTALL)
    platforms = [name.strip() for name in wanted.split(",") if name.strip()]
    name = failed[1] if failed else (platforms or ["cuda"])[0]
    detail = " ".join(failed[2].split()).rstrip(".")[:_DETAIL] if failed else "no device was found"
    setting = f"JAX_PLATFORMS={wanted}"
    otherwise = "or unset JAX_PLATFORMS to use what is there" if wanted else "or set JAX_PLATFORMS=cpu"
    if name == "cuda" or platforms == ["gpu"]:
        if not has_cuda():
            return f"{setting} needs JAX for CUDA, which is not installed; pip install 'vdm_jax[cuda]', {otherwise}"
        if not has_gpu():
            return f"{setting}, but this machine shows no NVIDIA GPU (nvidia-smi lists them); add one, {otherwise}"
        return f"JAX cannot start on the GPU ({detail}); update the NVIDIA driver, free the GPU, {otherwise}"
    if name == "tpu":
        if importlib.util.find_spec("libtpu") is None:
            return f"{setting} needs libtpu, which is not installed; pip install 'vdm_jax[tpu]', {otherwise}"
        return f"JAX cannot start on the TPU ({detail}); end other processes that use it, {otherwise}"
    if "known backends" in detail:
        return f"{setting}: JAX has no platform {name!r} here; set it to cpu, cuda or tpu, or unset JAX_PLATFORMS"
    return f"JAX cannot start on {name} ({detail}); repair it, {otherwise}"


def requested() -> str:
    """Return the platforms that JAX_PLATFORMS or a program has set, '' for none."""
    return getattr(jax.config, "jax_platforms", None) or ""


def has_cuda() -> bool:
    """Return whether JAX's CUDA plugin is installed."""
    return any(importlib.util.find_spec(name) is not None for name in _CUDA_PLUGINS)


def has_gpu() -> bool:
    """Return whether this machine shows an NVIDIA GPU to this process."""
    return any(os.path.exists(path) for path in _GPU_FILES)


def unused() -> str:
    """Return a sentence on an accelerator of this machine that JAX does not use, '' if there is none."""
    if jax.devices()[0].platform != "cpu" or requested() == "cpu":
        return ""
    if has_gpu() or shutil.which("nvidia-smi"):
        if not has_cuda():
            return "this machine has an NVIDIA GPU, but JAX is installed for CPUs only; pip install 'vdm_jax[cuda]'"
        return "nvidia-smi is here, but JAX finds no GPU; check that nvidia-smi lists one"
    if glob.glob("/dev/accel[0-9]*") and importlib.util.find_spec("libtpu") is None:
        return "this machine has a TPU, but JAX is installed for CPUs only; pip install 'vdm_jax[tpu]'"
    return ""
