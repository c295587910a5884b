"""Detect the format of a file of published weights from its content, and read it for a method.

    load("cifar10_uncond_50M_500K.pt", config, like)

The format is detected from the content where possible, and a file is read completely only after it is recognized.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict

from vdm_jax.convert import (
    clip,
    clu,
    ddgan,
    ddpm_tf,
    guided_diffusion,
    improved_diffusion,
    ncsn,
    safe_tensors,
    score_sde,
    torch_wrapped,
    torch_zip,
    unet_tables,
    vdm,
)
from vdm_jax.convert.untrusted import DAMAGED
from vdm_jax.errors import UserError
from vdm_jax.methods import clip as clip_method

# Formats that are recognized but not read: the end of an error sentence, with the remedy.
REFUSED = {
    "torch_legacy": torch_zip.OLD,
    "pickle": "a pickle, which can run arbitrary code when it is read; save only its arrays, with numpy.savez",
    "tf_checkpoint": "a TensorFlow checkpoint; where TensorFlow is installed, export it: "
    'r = tf.train.load_checkpoint("model.ckpt"); '
    'numpy.savez("new.npz", **{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()})',
    "npy": "a single array; weights with several arrays are an .npz file",
    "hdf5": "an HDF5 file, which none of the supported originals writes",
    "cut_short": "a zip archive that is cut short or damaged; copy it again",
    "zip": "a zip archive, but neither PyTorch's nor numpy's; if it was packed for transfer, unpack it",
    "samples": "samples that a model drew, not weights; give the working directory of that model, or published weights",
    "data": "a data set of images, not weights; name it in config.data.path, and give a working directory or published "
    "weights here",
    "directory": "a directory without a checkpoint in it; give a working directory, or the file of weights itself "
    "(….pt, ….npz, ckpt-N.flax or checkpoint_N)",
    "unknown": "not in a supported format of weights: PyTorch's .pt, .safetensors, numpy's .npz, Flax's msgpack",
}

_TENSORFLOW = re.compile(r"\.(index|meta|data-\d+-of-\d+)$")
_PREFIXED = {".flax": "clu", ".index": "tf_checkpoint"}  # extension after a prefix → format
_TEXT = (*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB)  # first byte of a string in msgpack


def sniff(path: str) -> str:
    """Detect the format of the weights at `path`.

    Returns:
        'torch_zip', 'safetensors', 'npz', 'flax_msgpack', 'clu' (a directory or prefix that `clu.find` resolves), or a
        key of REFUSED.

    Raises:
        UserError: The path does not exist or cannot be read.
    """
    place = epath.Path(path).expanduser()
    try:
        if place.is_dir():
            return _directory(place)
        if place.exists():
            return _file(place)
        prefixed = [kind for end, kind in _PREFIXED.items() if _beside(place, end).exists()]
    except ImportError as error:  # a bucket, and no library that reads buckets
        raise UserError(f"{path} cannot be reached ({error}); install that or copy the file to this disk") from None
    except PermissionError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if not prefixed:
        raise UserError(f"there is nothing at {path}")
    return prefixed[0]


def is_prefix(path: str) -> bool:
    """Return True if `path` is not a file but the common prefix of a checkpoint's files: …/ckpt-41."""
    place = epath.Path(path).expanduser()
    return not place.exists() and any(_beside(place, end).exists() for end in _PREFIXED)


def _beside(place: epath.Path, end: str) -> epath.Path:
    return place.parent / f"{place.name}{end}"


def _directory(place: epath.Path) -> str:
    if clip.glide_files(str(place)):
        return "glide_clip"
    if clu.find(str(place)):
        return "clu"
    if score_sde.find(str(place)):
        return "flax_msgpack"
    return "tf_checkpoint" if any(_TENSORFLOW.search(file.name) for file in place.iterdir()) else "directory"


def _file(file: epath.Path) -> str:
    if _TENSORFLOW.search(file.name):
        return "tf_checkpoint"
    with file.open("rb") as stream:
        start = stream.read(64)
        if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):  # the latter is empty
            return _zip(stream)
    if start.startswith(torch_zip.LEGACY):
        return "torch_legacy"
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if start.startswith(b"\x89HDF\r\n"):
        return "hdf5"
    if safe_tensors.begins(start, file.stat().length):
        return "safetensors"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    return "flax_msgpack" if _begins_a_dict(start) else "unknown"


def _zip(stream: Any) -> str:
    try:
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
    except DAMAGED:
        return "cut_short"
    if torch_zip.root_of(names):
        return "torch_zip"
    if "samples.npy" in names or "arr_0.npy" in names:  # ours; improved-diffusion's and guided-diffusion's
        return "samples"
    if {"x_train.npy", "x_test.npy", "x_val.npy", "images.npy", "x.npy"} & set(names):
        return "data"
    return "npz" if names and all(name.endswith(".npy") for name in names) else "zip"


def _begins_a_dict(start: bytes) -> bool:
    """Return True for a msgpack map whose first key is text, which is how Flax writes a tree."""
    first, *rest = start or b"\0"
    skipped = {0xDE: 2, 0xDF: 4}.get(first, 0 if 0x81 <= first <= 0x8F else 64)
    return len(rest) > skipped and rest[skipped] in _TEXT


def load(path: str, config: ConfigDict, like: Any) -> tuple[Any, int]:
    """Load the published weights at `path`.

    Args:
        path: A file, directory or prefix.
        config: The config of the run.
        like: Shapes and dtypes of the params of the config's method.

    Returns:
        (our params on one device, the step at which they were saved).

    Raises:
        UserError: The format is not supported, the weights belong to another method or config, or the file is damaged.
    """
    kind = sniff(path)
    if kind in REFUSED:
        raise UserError(f"{path} is {REFUSED[kind]}")
    if kind not in _READERS[config.method]:
        *others, last = (f"'{method}'" for method, readers in _READERS.items() if kind in readers)
        suited = f"{', '.join(others)} and {last}" if others else last
        raise UserError(f"{path} is {_KINDS[kind]}, which config.method={config.method!r} can't take; {suited} can")
    try:
        params, step = _READERS[config.method][kind](path, config, like)
    except UserError as error:  # some describe the content of the file and do not name it
        if path in str(error):
            raise
        raise UserError(f"{path}: {error}") from error
    if wrong := first_not_finite(params):
        raise UserError(f"{path} has NaN or infinite numbers in the leaf {wrong}; use other weights")
    return params, step


def first_not_finite(params: Any) -> str | None:
    """Return the path of the first leaf that is not finite, or None."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.isfinite(leaf).all()):
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return None


def _openai(path: str, config: ConfigDict, like: Any) -> tuple[Any, int]:
    """Load a .pt of OpenAI's code, which usually contains one set of weights, EMA or raw, without a label."""
    if config.model.family == "adm":
        return guided_diffusion.load(path, config, like)
    flat = torch_wrapped.read(path, config.evaluation.weights)
    return unet_tables.load(path, {"params": flat, "ema_params": flat}, improved_diffusion.from_original, config, like)


def _clip(path: str, config: ConfigDict, like: Any) -> tuple[Any, int]:
    """Load a CLIP of OpenAI's, open_clip's or Hugging Face's layout, or the folder of GLIDE's noised one."""
    made = clip.load(path, clip_method.settings(config))
    return {"network": made["params"], **{k: v for k, v in made.items() if k == "batch_stats"}}, 0


_KINDS = {
    "glide_clip": "a folder with the two files of GLIDE's noised CLIP",
    "torch_zip": "a PyTorch file: of improved-diffusion, guided-diffusion, NCSN, denoising-diffusion-gan or CLIP",
    "safetensors": "a file of safetensors",
    "npz": "an .npz file of arrays",
    "flax_msgpack": "a Flax msgpack file",
    "clu": "a checkpoint of google-research/vdm",
}
_READERS: dict[str, dict[str, Callable[[str, ConfigDict, Any], tuple[Any, int]]]] = {
    "vdm": {"clu": vdm.load, "flax_msgpack": vdm.load},
    "ddpm": {"torch_zip": _openai, "npz": ddpm_tf.load, "flax_msgpack": score_sde.load},
    "sde": {"flax_msgpack": score_sde.load, "torch_zip": ncsn.load},
    "dequantizer": {},
    "classifier": {"torch_zip": guided_diffusion.load},
    "ddgan": {"torch_zip": ddgan.load},
    "clip": {"torch_zip": _clip, "glide_clip": _clip},
}
for _readers in _READERS.values():  # the same tensors by the same names
    if "torch_zip" in _readers:
        _readers["safetensors"] = _readers["torch_zip"]
