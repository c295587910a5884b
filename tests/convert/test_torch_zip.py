"""Files that PyTorch wrote (goldens/README.md) come out as the arrays that went in."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.convert.torch_files import CODE, archive, module, plain, program, storage, tensor
from vdm_jax.convert import torch_zip
from vdm_jax.errors import UserError

GOLDENS = Path(__file__).parent / "goldens" / "torch"


def fill(shape: tuple[int, ...], dtype: object = np.float32, start: int = 0) -> np.ndarray:
    """What the goldens hold."""
    n = int(np.prod(shape))
    return (np.arange(start, start + n) / 4 - 3).reshape(shape).astype(dtype)


def load(name: str) -> dict[str, np.ndarray]:
    return torch_zip.read(str(GOLDENS / f"{name}.pt"))


def refused(path: Path) -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(UserError) as error:
        torch_zip.read(str(path))
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_a_state_dict_in_its_order() -> None:
    got = load("state_dict")
    shapes = {"0.weight": (4, 3, 3, 3), "0.bias": (4,), "1.weight": (4,), "1.bias": (4,), "3.weight": (5, 4)}
    shapes |= {"3.bias": (5,), "4.weight": (5,), "4.bias": (5,)}
    buffers = {"4.running_mean": np.zeros(5), "4.running_var": np.ones(5), "4.num_batches_tracked": np.array(0)}
    assert list(got) == [*shapes, *buffers]
    for i, (name, shape) in enumerate(shapes.items()):
        np.testing.assert_array_equal(got[name], fill(shape, start=i), strict=True)
    for name, value in buffers.items():
        np.testing.assert_array_equal(got[name], value)
    assert got["4.num_batches_tracked"].dtype == np.int64


BASE = fill((6, 5, 4))
VIEWS = {
    "whole": BASE,
    "transposed": BASE.transpose(2, 0, 1),
    "sliced": BASE[1::2, 2:, ::3],
    "tail": BASE.reshape(-1)[100:],
    "scalar_of_base": BASE[1, 2, 3],
    "one": BASE[:1, 0, :3],
    "parameter": fill((2, 3)),
    "frozen": fill((2, 3), start=7),
    "scalar": np.float32(2.5),
    "empty": np.zeros((0, 7), np.float32),
    "expanded": np.repeat(np.float32([[1.5], [2.5]]), 6, axis=1),
    "channels_last": fill((2, 3, 4, 5)),
    "list.0": np.float32(1),
    "list.1.0": np.float32(2),
    "list.1.1": np.int64(3),
    "number": np.int64(7),
    "ratio": np.float64(0.25),
    "flag": np.bool_(True),
}
DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8")
KINDS = {f"dtypes.{dtype}": fill((2, 5), dtype) for dtype in DTYPES} | {
    "dtypes.bfloat16": fill((2, 5), ml_dtypes.bfloat16),
    "dtypes.uint8": np.arange(10, dtype=np.uint8).reshape(2, 5),
    "dtypes.bool": np.array([[True, False, True], [False, False, True]]),
}


def test_views_dtypes_and_nested_names() -> None:
    got = load("everything")
    assert got.keys() == VIEWS.keys() | KINDS.keys()  # without strings, None and what lies beside 'state_dict'
    for name, value in (VIEWS | KINDS).items():
        np.testing.assert_array_equal(got[name], np.asarray(value), strict=True, err_msg=name)


def test_tensors_of_one_storage_share_its_bytes() -> None:
    got = load("everything")
    assert all(np.shares_memory(got["whole"], got[name]) for name in ("transposed", "sliced", "tail"))
    assert not np.shares_memory(got["whole"], got["parameter"])


def test_protocol_4_and_keys_that_are_numbers() -> None:
    got = load("optimizer")
    np.testing.assert_allclose(got["state.0.exp_avg"], np.full((4, 3, 3, 3), 0.1), rtol=1e-6)
    assert got["param_groups.0.params.7"] == 7 and got["param_groups.0.lr"] == 1e-3


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("legacy", "before 1.6"),
        ("module", "'torch.nn.modules.linear.Linear'"),
        ("tensor", "other than a dict of tensors"),
        ("uint16", "'torch._utils._rebuild_tensor_v3'"),
        ("sparse", "'torch._utils._rebuild_sparse_tensor'"),
        ("negated", "clone"),
    ],
)
def test_what_is_more_than_tensors_says_what_to_do(name: str, sentence: str) -> None:
    assert sentence in refused(GOLDENS / f"{name}.pt")


def test_the_advice_for_a_legacy_file_is_a_line_of_python() -> None:
    assert "torch.save(torch.load(" in refused(GOLDENS / "legacy.pt")
    compile(torch_zip.RESAVE, "advice", "eval")


def written(tmp_path: Path, raw: bytes) -> Path:
    file = tmp_path / "weights.pt"
    file.write_bytes(raw)
    return file


def with_member(name: str, change: Callable[[bytes], bytes | None]) -> bytes:
    """everything.pt with one kind of member changed, or left out where None."""
    with zipfile.ZipFile(GOLDENS / "everything.pt") as source:
        members = {n.removeprefix("everything/"): source.read(n) for n in source.namelist()}
    members = {n: change(raw) if n.startswith(name) else raw for n, raw in members.items()}
    kept = {n: raw for n, raw in members.items() if raw is not None}
    return archive(kept.pop("data.pkl"), {}, {n: raw for n, raw in kept.items() if n != "version"})


def test_a_file_without_a_byte_order_is_little_endian(tmp_path: Path) -> None:
    got = torch_zip.read(str(written(tmp_path, with_member("byteorder", lambda raw: None))))
    np.testing.assert_array_equal(got["transposed"], BASE.transpose(2, 0, 1), strict=True)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "bool", "bfloat16"])
def test_a_big_endian_file(tmp_path: Path, dtype: str) -> None:
    kind = {"float32": "Float", "float64": "Double", "int16": "Short", "bool": "Bool", "bfloat16": "BFloat16"}[dtype]
    value = fill((2, 3), torch_zip._dtype(dtype))
    words = np.ascontiguousarray(value).view(f"u{value.itemsize}").byteswap().tobytes()
    pickled = program({"x": tensor(of=storage(kind=f"torch\n{kind}Storage".encode()))})
    file = written(tmp_path, archive(pickled, {"0": words}, {"byteorder": b"big"}))
    np.testing.assert_array_equal(torch_zip.read(str(file))["x"], value, strict=True)


def test_bytes_of_a_bool_that_are_neither_0_nor_1_are_true(tmp_path: Path) -> None:
    pickled = program({"x": tensor(of=storage(kind=b"torch\nBoolStorage"))})
    got = torch_zip.read(str(written(tmp_path, archive(pickled, {"0": bytes([0, 1, 2, 255, 0, 7])}))))["x"]
    np.testing.assert_array_equal(got, [[False, True, True], [True, False, True]])


def test_places_without_a_file(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "nowhere.pt")
    assert "give a .pt file" in refused(tmp_path)


def test_a_dict_without_tensors_is_empty(tmp_path: Path) -> None:
    assert torch_zip.read(str(written(tmp_path, archive(program({}), {})))) == {}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_tensors_of_torchscript_s_modules_have_the_names_of_a_state_dict(tmp_path: Path, compression: int) -> None:
    """Numbers are options of modules, not tensors; code may be packed."""
    ints = b"ctorch.jit._pickle\nbuild_intlist\n(](K\x01K\x02etR"
    tagged = b"ctorch.jit._pickle\nrestore_type_tag\n(]" + plain("List[str]") + b"tR"
    inner = module({"weight": tensor(shape=(3,), strides=(1,), offset=1), "training": b"\x89", "stride": ints})
    outer = module({"conv": inner, "0": tensor(), "names": tagged, "name": plain("net"), "none": b"N"})
    (tmp_path / "net.pt").write_bytes(
        archive(b"\x80\x02" + outer + b".", {"0": np.arange(6, dtype=np.float32).tobytes()})
    )
    with zipfile.ZipFile(tmp_path / "net.pt", "a") as members:
        for name, code in CODE.items():
            members.writestr(f"archive/{name}", code, compression)
    got = torch_zip.read(str(tmp_path / "net.pt"))
    assert list(got) == ["conv.weight", "0"]
    np.testing.assert_array_equal(got["conv.weight"], np.float32([1, 2, 3]), strict=True)
    np.testing.assert_array_equal(got["0"], np.arange(6, dtype=np.float32).reshape(2, 3), strict=True)
