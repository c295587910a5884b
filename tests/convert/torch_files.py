"""PyTorch files put together by hand, honest and not."""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections.abc import Mapping

import numpy as np

KINDS = {"float32": b"torch\nFloatStorage", "float16": b"torch\nHalfStorage", "int64": b"torch\nLongStorage"}
EMPTY_DICT = b"ccollections\nOrderedDict\n)R"


def plain(value: object) -> bytes:
    """Instructions that push a plain value and leave the memo alone."""
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]


def storage(
    key: object = "0", kind: bytes = b"torch\nFloatStorage", size: object = 6, word: object = "storage"
) -> bytes:
    return b"(" + plain(word) + b"c" + kind + b"\n" + plain(key) + plain("cpu") + plain(size) + b"tQ"


def tensor(
    offset: object = 0,
    shape: object = (2, 3),
    strides: object = (3, 1),
    hooks: bytes = EMPTY_DICT,
    more: bytes = b"",
    of: bytes | None = None,
) -> bytes:
    arguments = (of or storage()) + plain(offset) + plain(shape) + plain(strides) + b"\x89" + hooks + more
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


# Beside the pickle of TorchScript.
CODE = {"constants.pkl": b"\x80\x02).", "code/__torch__/net.py": b"x" * 1000}
_CLASS = b"c__torch__.net\nNet\n"


def module(attributes: Mapping[str, bytes]) -> bytes:
    """Instructions that push a module of TorchScript."""
    return _CLASS + b")\x81}(" + b"".join(plain(name) + value for name, value in attributes.items()) + b"ub"


def program(values: Mapping[str, bytes]) -> bytes:
    """A pickle of a dict of values."""
    return b"\x80\x02}(" + b"".join(plain(name) + value for name, value in values.items()) + b"u."


def archive(
    pickled: bytes | None = None,
    storages: Mapping[str, bytes] | None = None,
    others: Mapping[str, bytes] | None = None,
    root: str = "archive/",
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """A .pt file; by default of one tensor x [2, 3] of zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as members:
        members.writestr(root + "data.pkl", program({"x": tensor()}) if pickled is None else pickled)
        for key, raw in ({"0": bytes(24)} if storages is None else storages).items():
            members.writestr(f"{root}data/{key}", raw)
        for name, raw in (others or {}).items():
            members.writestr(root + name, raw)
        members.writestr(root + "version", b"3\n")
    return file.getvalue()


def pt(flat: dict[str, np.ndarray]) -> bytes:
    """A .pt file of those tensors."""
    values, storages = {}, {}
    for i, (name, a) in enumerate(flat.items()):
        strides = tuple(step // a.itemsize for step in np.empty(a.shape, a.dtype).strides)
        values[name] = tensor(shape=a.shape, strides=strides, of=storage(str(i), KINDS[a.dtype.name], a.size))
        storages[str(i)] = a.tobytes()
    return archive(program(values), storages)
