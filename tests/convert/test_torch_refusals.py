"""Files that claim to be PyTorch's and mean harm, or are broken: refused in a sentence, nothing run."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.convert.torch_files import CODE, EMPTY_DICT, archive, module, plain, program, storage, tensor
from vdm_jax.convert import torch_zip
from vdm_jax.convert.torch_pickle import MAX_PROGRAM
from vdm_jax.errors import UserError


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[bytes], str]:
    """Writes a file and gives the one sentence with which it is refused."""

    def sentence(raw: bytes) -> str:
        (tmp_path / "weights.pt").write_bytes(raw)
        with pytest.raises(UserError) as error:
            torch_zip.read(str(tmp_path / "weights.pt"))
        text = str(error.value)
        assert "\n" not in text and text.isprintable() and len(text) < 500 + len(str(tmp_path))
        return text.removeprefix(str(tmp_path))

    return sentence


class Payload:
    """Pickles as a call."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.system, builtins.eval, builtins.getattr, builtins.__import__, io.open])
def test_calls_are_refused_by_name_and_not_made(
    refused: Callable, tmp_path: Path, function: Callable, protocol: int
) -> None:
    marker = tmp_path / "ran"
    argument = {os.system: f"touch {marker}", builtins.eval: f"open({str(marker)!r}, 'w')", io.open: str(marker)}
    payload = Payload(function, argument.get(function, "os"), "w")
    text = refused(archive(pickle.dumps({"x": payload}, protocol)))
    assert function.__name__ in text or "instruction" in text
    assert not marker.exists()


GLOBALS = {
    "os system": b"cos\nsystem\n",
    "torch.load": b"ctorch\nload\n",
    "torch._utils._rebuild_tensor_v2.__globals__": b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n",
    "torch.FloatStorage.from_buffer": b"ctorch\nFloatStorage.from_buffer\n",
    "of another package": b"cnottorch\nFloatStorage\n",
    "a space for a dot": b"ctorch _utils\n_rebuild_tensor_v2\n",
    "split elsewhere": b"ctorch\n_utils._rebuild_parameter.__call__\n",
    "codecs": b"c_codecs\nencode\n",
    "numpy's": b"cnumpy._core.multiarray\nscalar\n",
    "torch.storage._load_from_bytes": b"ctorch.storage\n_load_from_bytes\n",
    "by the stack": plain("posix") + plain("system") + b"\x93",
    "by the memo": plain("builtins") + b"q\x07" + plain("exec") + b"q\x08h\x07h\x08\x93",
}


@pytest.mark.parametrize("kind", GLOBALS)
def test_every_global_but_those_of_tensors_is_refused(refused: Callable, kind: str) -> None:
    assert "refers to" in refused(archive(program({"x": GLOBALS[kind]})))
    assert "refers to" in refused(archive(program({"x": GLOBALS[kind] + b")R"})))


INSTRUCTIONS = {
    "INST": b"(" + plain("echo") + b"ios\nsystem\n",
    "OBJ": b"(ccollections\nOrderedDict\no",
    "NEWOBJ": b"ccollections\nOrderedDict\n)\x81",
    "NEWOBJ_EX": b"ccollections\nOrderedDict\n)}\x92",
    "EXT1": b"\x82\x01",
    "PERSID": b"P0\n",
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 2),
    "NEXT_BUFFER": b"\x97",
    "DUP": b"}2",
    "POP": b"}0",
    "LONG4": b"\x8b" + struct.pack("<i", 1) + b"\x01",
    "STRING": b"S'x'\n",
}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instructions_that_tensors_do_not_need_are_refused(refused: Callable, name: str) -> None:
    raw = INSTRUCTIONS[name] + (b"ab" if name == "BYTEARRAY8" else b"")
    assert f"instruction {name}" in refused(archive(program({"x": raw})))


TRICKS = {
    "a call of a string": plain("eval") + plain(("1",)) + b"R",
    "a call of a tensor": tensor() + b")R",
    "a call of a type of storage": b"ctorch\nFloatStorage\n" + plain((3,)) + b"R",
    "a dict from arguments": b"ccollections\nOrderedDict\n" + plain(((("a", 1),),)) + b"R",
    "attributes of a function": b"ctorch._utils\n_rebuild_tensor_v2\n" + plain({"__code__": 1}) + b"b",
    "attributes of a type": b"ctorch\nFloatStorage\n" + plain((None, {"__init__": 1})) + b"b",
    "attributes of a list": b"]" + plain({"a": 1}) + b"b",
    "a function as a value": b"ctorch._utils\n_rebuild_tensor_v2\n",
    "a storage as a value": storage(),
    "a parameter of a number": b"ctorch._utils\n_rebuild_parameter\n(K\x01\x89" + EMPTY_DICT + b"tR",
    "hooks": tensor(hooks=plain({1: "print"})),
    "a lazy sign": tensor(more=plain({"neg": True})),
    "too many arguments": tensor(more=b"NN"),
    "a storage of no known type": tensor(of=storage(kind=b"torch\nUntypedStorage")),
    "a function for a type": tensor(of=storage(kind=b"torch._utils\n_rebuild_parameter")),
    "an id that is no storage": tensor(of=storage(word="module")),
    "an id that is a number": tensor(of=b"K\x05Q"),
    "an id that is short": tensor(of=b"(" + plain("storage") + b"tQ"),
    "a key that is a number": tensor(of=storage(key=0)),
    "a key that leads out": tensor(of=storage(key="../data.pkl")),
    "a key that is absent": tensor(of=storage(key="1")),
    "a size that is text": tensor(of=storage(size="6")),
    "a size that is negative": tensor(of=storage(size=-6)),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_with_the_few_names_that_are_known(refused: Callable, trick: str) -> None:
    refused(archive(program({"x": TRICKS[trick]})))


PLACES = {
    "offset beyond": {"offset": 1},
    "offset far beyond": {"offset": 2**62},
    "offset negative": {"offset": -1},
    "offset no integer": {"offset": 0.0},
    "offset a bool": {"offset": False},
    "rows beyond": {"shape": (3, 3)},
    "stride beyond": {"strides": (4, 1)},
    "stride negative": {"offset": 5, "strides": (-3, -1)},
    "size negative": {"shape": (-2, 3)},
    "both negative": {"shape": (-2, 3), "strides": (-3, 1)},
    "empty, far beyond": {"offset": 2**62, "shape": (0, 3)},
    "empty and endless": {"shape": (0, 2**62)},
    "endless": {"shape": (2**40, 2**40), "strides": (0, 0)},
    "overflow to 0": {"shape": (2**32, 2**32), "strides": (0, 0)},
    "overflow of a product": {"shape": (2, 3), "strides": (2**64 // 4 + 3, 1)},
    "wraps around": {"offset": 3, "shape": (2,), "strides": (2**64 - 3,)},
    "larger than its storage": {"shape": (5 * 2**20,), "strides": (0,)},
    "axes without strides": {"strides": (1,)},
    "a list of axes": {"shape": [2, 3]},
    "a hundred axes": {"shape": (1,) * 100, "strides": (1,) * 100},
    "numbers of 250 bytes": {"shape": (2 ** (8 * 240), 3)},
    "members too few": {"of": storage(size=7)},
    "members too many": {"of": storage(size=5)},
    "of another dtype": {"of": storage(kind=b"torch\nDoubleStorage")},
    "no numbers at all": {"of": storage(size=2**62)},
}


@pytest.mark.parametrize("place", PLACES)
def test_sizes_offsets_and_strides_out_of_bounds(refused: Callable, place: str) -> None:
    refused(archive(program({"x": tensor(**PLACES[place])})))


def test_what_touches_the_bounds_is_read(tmp_path: Path) -> None:
    raw = np.arange(6, dtype=np.float32).tobytes()
    values = {
        "last": tensor(5, (), ()),
        "empty at the end": tensor(6, (0,), (1,)),
        "columns": tensor(0, (3, 2), (1, 3)),
        "overlapping": tensor(0, (4, 3), (1, 1)),
    }
    (tmp_path / "x.pt").write_bytes(archive(program(values), {"0": raw}))
    got = torch_zip.read(str(tmp_path / "x.pt"))
    assert got["last"] == 5 and got["empty at the end"].shape == (0,)
    np.testing.assert_array_equal(got["columns"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(got["overlapping"], np.arange(4)[:, None] + np.arange(3))


def laughs(depth: int) -> bytes:
    """Dicts of twice the dict before: 2^depth leaves in a few bytes each."""
    a, b = plain("a"), plain("b")
    dicts = [
        b"}q" + bytes([i]) + b"(" + a + b"h" + bytes([i - 1]) + b + b"h" + bytes([i - 1]) + b"u"
        for i in range(1, depth)
    ]
    return program({"x": b"](}q\x00" + a + b"K\x01s" + b"".join(dicts) + b"e"})


def long_names() -> bytes:
    """A name of a hundred thousand letters in front of very many numbers."""
    return program({"x" * 100_000: b"](" + b"K\x01" * 99_000 + b"e"})


BOMBS = {
    "memo": b"\x80\x02}r\xff\xff\xff\x7fK\x01a.",
    "memo of nothing": b"\x80\x02h\x07.",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"abc.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"]r\xff\xff\xff\x7f}b.",
    "itself": b"\x80\x02}q\x00" + plain("a") + b"h\x00s.",
    "list in itself": program({"x": b"]q\x00h\x00a"}),
    "deep lists": program({"x": b"]" * 10**5 + b"a" * (10**5 - 1)}),
    "deep marks": b"\x80\x02" + b"(" * 10**5 + b".",
    "deep tuples": program({"x": b")" + b"\x85" * 10**5}),
    "laughs": laughs(30),
    "keys that take forever to hash": b"\x80\x02})" + b"q\x00h\x00h\x00\x87" * 60 + b"Ns.",
    "names": long_names(),
    "very many numbers": program({"x": b"](" + b"K\x01" * 150_000 + b"e"}),
    "a long program": program({}) + bytes(MAX_PROGRAM),
    "open mark": b"\x80\x02(}.",
    "two values": b"\x80\x02}}.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "not even a pickle": b"hello",
    "a number too large": program({"x": plain(2**80)}),
    "a list": b"\x80\x02].",
    "one name twice": program({"a.b": plain(1), "a": plain({"b": 2})}),
    "an odd dict": b"\x80\x02}(" + plain("a") + b"u.",
    "append to a dict": b"\x80\x02}K\x01a.",
}


SLOW_BOMBS = ("deep lists", "deep marks", "deep tuples", "laughs")


@pytest.mark.parametrize("bomb", [pytest.param(b, marks=[pytest.mark.slow] * (b in SLOW_BOMBS)) for b in BOMBS])
def test_bombs_take_no_memory(refused: Callable, bomb: str) -> None:
    raw = archive(BOMBS[bomb])
    tracemalloc.start()
    try:
        refused(raw)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50 * 2**20


def doubled(raw: bytes) -> bytes:
    """The archive with a second member of the name of a storage."""
    file = io.BytesIO(raw)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "a") as members:
        members.writestr("archive/data/0", bytes(24))
    return file.getvalue()


def overlapping() -> bytes:
    """A hundred names for the same bytes of the file."""
    file = io.BytesIO(archive(None, {"0": bytes(10_000)}))
    with zipfile.ZipFile(file, "a") as members:
        info = members.getinfo("archive/data/0")
        for i in range(1, 100):
            twin = zipfile.ZipInfo(f"archive/data/{i}")
            for field in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(twin, field, getattr(info, field))
            members.filelist.append(twin)
        members.NameToInfo |= {i.filename: i for i in members.filelist}
        members._didModify = True
    return file.getvalue()


def patched(old: bytes, new: bytes) -> bytes:
    assert archive().count(old) > 0 and len(old) == len(new)
    return archive().replace(old, new)


def claims(size: int) -> bytes:
    """The file whose directory says that data/0 has that many bytes."""
    raw = archive()
    at = raw.rindex(b"archive/data/0") - 46
    return raw[: at + 20] + struct.pack("<II", size, size) + raw[at + 28 :]


def script(pickled: bytes) -> bytes:
    """An archive of TorchScript."""
    return archive(pickled, others=CODE)


FILES = {
    "empty": (b"", "does not start"),
    "text": (b"hello", "does not start"),
    "a pickle": (pickle.dumps({}), "does not start"),
    "only the magic number": (b"PK\x03\x04", "damaged"),
    "cut short": (archive()[:-30], "damaged"),
    "an empty zip archive": (b"PK\x05\x06" + bytes(18), "does not start"),
    "compressed": (archive(compression=zipfile.ZIP_DEFLATED), "something other than PyTorch"),
    "a zip bomb": (archive(None, {"0": bytes(10**7)}, compression=zipfile.ZIP_DEFLATED), "other than PyTorch"),
    "no pickle": (archive(root="a/b/"), "no data.pkl"),
    "two pickles": (archive(others={"/../b/data.pkl": b""}, root="archive"), "no data.pkl"),
    "TorchScript in a place of tensors alone": (archive(program({"x": module({})})), "__torch__.net.Net"),
    "code that is called": (script(b"cos\nsystem\n(X\x04\x00\x00\x00trueqR."), "os.system"),
    "a module that is called": (script(b"\x80\x02c__torch__.net\nNet\n)R."), "calls '__torch__.net.Net' with"),
    "a module of arguments": (script(b"\x80\x02c__torch__.net\nNet\n(K\x01t\x81."), "NEWOBJ"),
    "a module without a dict": (script(b"\x80\x02c__torch__.net\nNet\n)\x81K\x01b."), "damaged description"),
    "TorchScript with packed tensors": (archive(others=CODE, compression=zipfile.ZIP_DEFLATED), "other than PyTorch"),
    "a member that is short": (archive(None, {"0": bytes(23)}), "23 bytes"),
    "a member that is missing": (archive(None, {}), "lacks the storage"),
    "a member twice": (None, "one name"),
    "members on top of each other": (None, "more bytes than the file has"),
    "a directory that claims much": (claims(2**31), "more bytes than the file has"),
    "a directory that claims little": (claims(8), "damaged|8 bytes"),
    "another byte order": (archive(others={"byteorder": b"middle"}), "'middle'"),
    "a long byte order": (archive(others={"byteorder": b"little" * 100}), "neither little nor big"),
    "numbers that changed": (patched(bytes(24), bytes(23) + b"\x01"), "damaged"),
    "a name with a line break": (archive(program({"a\nb\x1b[2J": storage()})), "not a tensor"),
}


@pytest.mark.parametrize("kind", FILES)
def test_archives_that_lie(refused: Callable, kind: str) -> None:
    raw, sentence = FILES[kind]
    made = {"a member twice": lambda: doubled(archive()), "members on top of each other": overlapping}
    text = refused(made[kind]() if raw is None else raw)
    assert any(part in text for part in sentence.split("|"))


def test_a_file_larger_than_any_checkpoint_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.pt").open("wb") as file:
        file.truncate(torch_zip.MAX_BYTES + 1)  # sparse: takes no room on the disk
    with pytest.raises(UserError, match="16 GiB is the limit"):
        torch_zip.read(str(tmp_path / "x.pt"))


def test_whatever_byte_changes_the_file_is_read_or_refused(tmp_path: Path) -> None:
    """Never another exception, and never other numbers: the archive has checksums."""
    values = {"x": tensor(), "y": plain({"z": [1, 2.5, True, None, "w"]})}
    raw = archive(program(values), {"0": np.arange(6, dtype=np.float32).tobytes()}, {"byteorder": b"little"})
    file = tmp_path / "x.pt"
    draw = random.Random(0)
    read = 0
    for _ in range(600):
        at = draw.randrange(len(raw))
        changed = draw.choice(
            [raw[:at], raw[:at] + bytes([draw.randrange(256)]) + raw[at + 1 :], raw[:at] + raw[at + 1 :]]
        )
        file.write_bytes(changed)
        try:
            got = torch_zip.read(str(file))
        except UserError:
            continue
        read += 1
        np.testing.assert_array_equal(got["x"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert read > 10  # dates and the like


def test_whatever_byte_of_the_pickle_changes_it_is_read_or_refused(tmp_path: Path) -> None:
    """With checksums that fit, as someone who means harm would see to."""
    values = {"x": tensor(), "y": plain({"z": [1, 2.5, True, None, "w"]}) + b"q\x05", "w": b"h\x05"}
    pickled = program(values)
    file = tmp_path / "x.pt"
    draw = random.Random(1)
    refusals = 0
    for _ in range(600):
        changed = bytearray(pickled)
        for _ in range(draw.choice([1, 1, 2, 5])):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        file.write_bytes(archive(bytes(changed)))
        try:
            got = torch_zip.read(str(file))
        except UserError:
            refusals += 1
            continue
        assert all(isinstance(array, np.ndarray) and array.nbytes < 2**25 for array in got.values())
    assert refusals > 200
