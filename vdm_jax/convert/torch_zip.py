"""Safe reading of PyTorch's .pt files of tensors, without PyTorch and without executing them.

    model.pt, a zip archive (torch >= 1.6) with uncompressed members
      <stem>/data.pkl        the pickle that describes the tensors
      <stem>/data/<key>      the elements of one storage; tensors are strided views, several may share one
      <stem>/byteorder       'little' or 'big'; older files lack it and are little

An archive of TorchScript, which `torch.jit.save` writes, has the same layout: its pickle describes modules whose
attributes are tensors. Its code is in other members, which are not read.

Every claim of the file is checked: a storage has exactly the bytes of its member, a view lies within its storage, and
all members together are no larger than the file.
"""

from __future__ import annotations

import math
import sys
import zipfile
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from vdm_jax.convert.clu import MAX_BYTES
from vdm_jax.convert.torch_pickle import MAX_PROGRAM, Tensor, parse
from vdm_jax.convert.untrusted import Refused, opened, shown

# First bytes of a file of torch < 1.6: the pickle of its magic number.
LEGACY = b"\x80\x02\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."
MAX_DIMENSIONS = 16
MAX_DEPTH = 32
MAX_LEAVES = 100_000
MAX_NAME = 500
# Limit on bytes of tensors beyond their storages: torch's expanded tensors have stride 0.
MAX_EXPANDED = 16 * 2**20

RESAVE = 'torch.save(torch.load("old.pt", map_location="cpu", weights_only=True), "new.pt")'
OLD = f"of a PyTorch before 1.6; save it again with a newer one: {RESAVE}"


class Archive(NamedTuple):
    """An open archive whose members have been checked; root is the common prefix of their names."""

    file: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]
    root: str

    def read(self, name: str) -> bytes:
        return self.file.read(self.members[self.root + name])


def read(path: str) -> dict[str, np.ndarray]:
    """Read the tensors of the .pt file at `path` as read-only arrays by name.

    Only the entry 'state_dict' is read if there is one, else everything. Names of nested dicts and lists are joined by
    dots, numbers become arrays without axes (those of TorchScript are dropped), and strings and None are dropped.

    Raises:
        UserError: The file does not exist or contains anything but tensors.
    """
    with opened(path, "a .pt file") as (stream, size):
        if size > MAX_BYTES:
            raise Refused(f"has {size / 2**30:.0f} GiB; {MAX_BYTES / 2**30:.0f} GiB is the limit")
        _check_format(stream.read(len(LEGACY)))
        with zipfile.ZipFile(stream) as archive:
            return _tensors(_checked(archive, size))


def _check_format(start: bytes) -> None:
    if start == LEGACY:
        raise Refused(f"is {OLD}")
    if not start.startswith(b"PK\x03\x04"):
        raise Refused("is not a .pt file: it does not start with the header of a zip archive")


def root_of(names: Iterable[str]) -> str | None:
    """Return '<stem>/' of an archive of PyTorch (tensors or TorchScript), or None for any other zip archive."""
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    return roots[0] if len(roots) == 1 else None


def is_script(names: Iterable[str], root: str) -> bool:
    """Return True if the archive is TorchScript, which has code and constants in addition to tensors."""
    return any(name == root + "constants.pkl" or name.startswith(root + "code/") for name in names)


def _checked(archive: zipfile.ZipFile, size: int) -> Archive:
    """Check that the members are those that `torch.save` writes, before any of them is read."""
    infos = archive.infolist()
    members = {info.filename: info for info in infos}
    if len(members) < len(infos):
        raise Refused("is damaged: two members of the archive have one name")
    root = root_of(members)
    if root is None:
        raise Refused("is a zip archive but not a .pt file: it has no data.pkl, or several")
    if is_script(members, root):
        data = (f"{root}data.pkl", f"{root}data/", f"{root}byteorder")
        infos = [info for info in infos if info.filename.startswith(data)]
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise Refused(f"was packed by something other than PyTorch; save it again: {RESAVE}")
    if sum(info.file_size for info in infos) > size:
        raise Refused("is damaged: its members claim more bytes than the file has")
    if members[root + "data.pkl"].file_size > MAX_PROGRAM:
        raise Refused("has a description of its tensors that is longer than any model needs")
    return Archive(archive, members, root)


def _tensors(archive: Archive) -> dict[str, np.ndarray]:
    script = is_script(archive.members, archive.root)
    leaves = _leaves(parse(archive.read("data.pkl"), script))
    tensors = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, Tensor)}
    if script:  # numbers are options of modules
        leaves = dict(tensors)
    for name, tensor in tensors.items():
        _check_bounds(shown(name), tensor, archive)
    if sum(_excess(tensor) for tensor in tensors.values()) > MAX_EXPANDED:
        raise Refused("has tensors that are larger than their storages; save their .contiguous()")
    order = _byte_order(archive)

    @cache  # tensors that share a storage share its bytes
    def data(key: str, itemsize: int) -> bytes:
        raw = archive.read(f"data/{key}")
        return raw if order == sys.byteorder else np.frombuffer(raw, f"u{itemsize}").byteswap().tobytes()

    return {k: _view(v, data) if isinstance(v, Tensor) else np.asarray(v) for k, v in leaves.items()}


def _byte_order(archive: Archive) -> str:
    info = archive.members.get(archive.root + "byteorder")
    if info is None:
        return "little"
    order = archive.read("byteorder").decode() if info.file_size < 100 else "a long text"
    if order not in ("little", "big"):
        raise Refused(f"has a byte order that is neither little nor big: {shown(order)}")
    return order


def _leaves(top: Any) -> dict[str, Tensor | bool | int | float]:
    """Return the tensors and numbers by dotted name."""
    if type(top) is not dict:
        raise Refused("holds something other than a dict of tensors; save the model's .state_dict()")
    inner = top.get("state_dict")
    leaves: dict[str, Any] = {}
    pending: list[tuple[str, Any, int]] = [("", inner if type(inner) is dict else top, 0)]
    visited = 0
    while pending:
        name, value, depth = pending.pop()
        if isinstance(value, Tensor) or type(value) in (bool, int, float):
            if name in leaves:
                raise Refused(f"has two tensors of the name {shown(name)}")
            if type(value) is int and abs(value) >= 2**63:
                raise Refused(f"has the number {shown(name)}, which does not fit 64 bits")
            leaves[name] = value
        elif type(value) in (dict, list, tuple):
            visited += 1
            if depth > MAX_DEPTH or visited + len(leaves) + len(pending) + len(value) > MAX_LEAVES:
                raise Refused("is nested too deeply, or has more parts than any model")
            items = value.items() if type(value) is dict else enumerate(value)
            inside = [(_joined(name, key), item, depth + 1) for key, item in items]
            pending.extend(reversed(inside))
        elif not (value is None or type(value) is str):
            raise Refused(f"has a value that is not a tensor under {shown(name)}")
    return leaves


def _joined(name: str, key: str | int) -> str:
    joined = f"{name}.{key}" if name else str(key)
    if len(joined) > MAX_NAME:
        raise Refused(f"has a name of {len(joined):,} letters")
    return joined


def _check_bounds(name: str, tensor: Tensor, archive: Archive) -> None:
    """Raise Refused if the tensor exceeds the bytes of its storage."""
    key, dtype, size = tensor.storage
    info = archive.members.get(f"{archive.root}data/{key}")
    if info is None:
        raise Refused(f"lacks the storage of {name}; copy it again")
    if info.file_size != size * _dtype(dtype).itemsize:
        raise Refused(f"has {info.file_size} bytes for the {shown(size)} elements of {dtype} in the storage of {name}")
    if len(tensor.shape) > MAX_DIMENSIONS or min((tensor.offset, *tensor.shape, *tensor.strides)) < 0:
        raise Refused(f"has a tensor {name} with an invalid size, offset or stride")
    axes = list(zip(tensor.shape, tensor.strides, strict=True))
    beyond = tensor.offset + (0 if 0 in tensor.shape else 1 + sum((n - 1) * stride for n, stride in axes))
    if beyond > size:
        raise Refused(f"has a tensor {name} that exceeds the {size} elements of its storage")


def _excess(tensor: Tensor) -> int:
    """Return the bytes of the tensor beyond its storage; axes of size 0 count as 1, so empty tensors are bounded."""
    elements = math.prod(max(n, 1) for n in tensor.shape)
    return max(0, elements - tensor.storage.size) * _dtype(tensor.storage.dtype).itemsize


def _view(tensor: Tensor, data: Callable[[str, int], bytes]) -> np.ndarray:
    key, name, _ = tensor.storage
    dtype = _dtype(name)
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, dtype)
    # the stride of an axis of size 1 is arbitrary
    strides = [stride * dtype.itemsize if n > 1 else 0 for n, stride in zip(tensor.shape, tensor.strides, strict=True)]
    stored = np.dtype("uint8") if name == "bool" else dtype
    array = np.ndarray(tensor.shape, stored, data(key, dtype.itemsize), tensor.offset * dtype.itemsize, strides)
    return array != 0 if name == "bool" else array


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
