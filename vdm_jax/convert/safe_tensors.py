"""Reading of safetensors files, which contain tensors by name and no code."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from vdm_jax.convert.clu import MAX_BYTES
from vdm_jax.convert.untrusted import Refused, opened, shown
from vdm_jax.errors import UserError

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def begins(start: bytes, size: int) -> bool:
    """Return whether the start of a file of `size` bytes is that of safetensors: the length of a JSON header."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def read(path: str) -> dict[str, np.ndarray]:
    """Read the tensors of a .safetensors file by name.

    Raises:
        UserError: The library is missing, or the file is missing or damaged.
    """
    try:
        from safetensors import SafetensorError, deserialize
    except ImportError:
        raise UserError(
            f"{path} is read by the library safetensors, which is missing; pip install 'vdm_jax[safetensors]'"
        ) from None
    with opened(path, "a .safetensors file") as (stream, size):
        if size > MAX_BYTES:
            raise Refused(f"has {size / 2**30:.0f} GiB; {MAX_BYTES / 2**30:.0f} GiB is the limit")
        try:
            entries = deserialize(stream.read())
        except SafetensorError as error:
            raise Refused(f"is damaged, or no .safetensors file ({shown(str(error))}); copy it again") from None
        return {name: _array(name, **entry) for name, entry in entries}


def _array(name: str, dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    if dtype not in DTYPES:
        raise Refused(f"has {shown(name)} in the dtype {shown(dtype)}; save it in one of {', '.join(DTYPES)}")
    return np.frombuffer(data, DTYPES[dtype]).reshape(shape)
