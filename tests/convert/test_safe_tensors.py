"""Files of safetensors come out as the arrays that went in; damaged ones get a sentence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from vdm_jax.convert import safe_tensors, state_dict
from vdm_jax.errors import UserError

pytest.importorskip("safetensors")


def raw(tensors: dict[str, np.ndarray], **dtypes: str) -> bytes:
    """The format by hand: length of the header, header, numbers. dtypes: names in the place of the right ones."""
    known = {np.dtype(dtype).name: name for name, dtype in safe_tensors.DTYPES.items()}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, a in tensors.items():
        span = [len(data), len(data) + a.nbytes]
        dtype = dtypes.get(name, known[a.dtype.name])
        header[name] = {"dtype": dtype, "shape": list(a.shape), "data_offsets": span}
        data += a.tobytes()
    packed = json.dumps(header).encode()
    return len(packed).to_bytes(8, "little") + packed + data


TENSORS = {
    "a.half": np.float16([[1.5, -2], [3, 4]]),
    "a.brain": np.asarray([1.0, -2.5, 3e38], ml_dtypes.bfloat16),
    "single": np.float32(0.1),
    "double": np.arange(6, dtype=np.float64).reshape(1, 2, 3),
    "long": np.int64([2**40, -1]),
    "byte": np.arange(5, dtype=np.uint8),
    "flag": np.array([True, False]),
    "none": np.zeros((0, 3), np.float32),
}


def test_all_dtypes_come_out_as_they_went_in(tmp_path: Path) -> None:
    tensors = {name: np.asarray(a) for name, a in TENSORS.items()}
    (tmp_path / "model.bin").write_bytes(raw(tensors))  # whatever the name says
    got = state_dict.read(str(tmp_path / "model.bin"))
    assert got.keys() == tensors.keys()
    for name, a in tensors.items():
        assert (got[name].shape, got[name].dtype) == (a.shape, a.dtype), name
        assert got[name].tobytes() == a.tobytes(), name


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        safe_tensors.read(str(path))
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_damaged_files_get_a_sentence(tmp_path: Path) -> None:
    good = raw({"a": np.zeros(4, np.float32), "b": np.ones(2, np.float32)})
    assert np.array_equal(np.float32([1, 1]), np.frombuffer(good[-8:], np.float32))
    longer = good.replace(b"[4]", b"[9]")
    for content in (good[:-3], good + b"x", longer, b"", good[:20], (2**60).to_bytes(8, "little") + good[8:]):
        assert "is damaged, or no .safetensors file" in refused(tmp_path / "x", content)


def test_another_dtype_is_named(tmp_path: Path) -> None:
    text = refused(tmp_path / "x", raw({"w": np.zeros(4, np.uint8)}, w="F8_E4M3"))
    assert "has 'w' in the dtype 'F8_E4M3'; save it in one of F64, F32" in text


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert "which is missing; pip install 'vdm_jax[safetensors]'" in refused(tmp_path / "x", raw(TENSORS))
