"""Reading of tensors by name from PyTorch's .pt files, TorchScript archives, and safetensors."""

from __future__ import annotations

from vdm_jax.convert import safe_tensors, torch_zip
from vdm_jax.convert.untrusted import opened
from vdm_jax.convert.vdm_layout import Flat


def read(path: str) -> Flat:
    """Read the tensors of a file by name; see `torch_zip.read` and `safe_tensors.read`."""
    with opened(path, "a .pt or .safetensors file") as (stream, size):
        safe = safe_tensors.begins(stream.read(16), size)
    return safe_tensors.read(path) if safe else torch_zip.read(path)
