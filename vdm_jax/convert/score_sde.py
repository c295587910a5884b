"""Checkpoints of yang-song/score_sde (Flax) ↔ our parameters of `networks.multiscale`.

    s = families.settings("ncsnpp")                      # its CIFAR-10 under VE
    state = read("checkpoint_26")                        # 'params', 'ema_params', 'step'
    params = from_original(state["ema_params"], s, (32, 32, 3))

A checkpoint is a Flax msgpack file of the train state. Modules are named by class and number, in the order of
construction (ResnetBlockBigGANpp_0, …), so a block's number depends on everything before it. The original `ncsnpp`
with BigGAN's blocks is our 'ddpmpp' and 'ncsnpp', and its `ddpm` is our 'ddpm' with attention_up='level'.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from vdm_jax.convert import clu
from vdm_jax.convert import unet_tables as tables
from vdm_jax.convert.unet_blocks import walk
from vdm_jax.convert.unet_tables import Shape, Table, Tree
from vdm_jax.convert.vdm_layout import Flat, flatten
from vdm_jax.errors import UserError
from vdm_jax.networks.families import Settings

_SAVED = re.compile(r"checkpoint_(\d+)$")

# Our layer in a residual block or attention → the original's.
_LAYERS = {
    "norm": "GroupNorm_0",
    "norm1": "GroupNorm_0",
    "conv1": "Conv_0",
    "cond_proj": "Dense_0",
    "norm2": "GroupNorm_1",
    "conv2": "Conv_1",
    "q": "NIN_0",
    "k": "NIN_1",
    "v": "NIN_2",
    "proj_out": "NIN_3",
}


def find(path: str) -> epath.Path | None:
    """Find the checkpoint file of `path`: itself, or the newest checkpoint_N of a directory or its checkpoints/."""
    place = epath.Path(path).expanduser()
    try:
        if not place.is_dir():
            return place if place.exists() else None
        files = [f for d in (place, place / "checkpoints") if d.is_dir() for f in d.iterdir()]
        numbered = [(int(m[1]), f) for f in files if (m := _SAVED.search(f.name)) and not f.is_dir()]
        return max(numbered, key=lambda pair: pair[0])[1] if numbered else None
    except ImportError as error:  # a bucket, and no library that reads buckets
        raise UserError(
            f"{path} cannot be reached ({error}); install that or copy the checkpoint to this disk"
        ) from None


def read(path: str) -> dict[str, Any]:
    """Read the train state at `path`.

    The group norms of Flax before 0.3.6 have leaves of shape [1, 1, 1, C], which become [C].

    Args:
        path: As in `find`.

    Returns:
        A dictionary with those of 'params', 'ema_params' (trees) and 'step' that the file has.

    Raises:
        UserError: There is no checkpoint, or it is not one of the original.
    """
    file = find(path)
    if file is None:
        raise UserError(f"no checkpoint of score_sde at {path}; give its checkpoint_N or the directory that holds it")
    state = clu.restore(file)
    state = state if isinstance(state, dict) else {}
    optimizer = state.get("optimizer")
    trees = {
        "params": optimizer.get("target") if isinstance(optimizer, dict) else None,
        "ema_params": state.get("params_ema"),
    }
    if "Conv_0" in state:  # bare parameters
        trees = {"params": state}
    parts: dict[str, Any] = {
        k: _without_unit_axes(t) for k, t in trees.items() if isinstance(t, dict) and "Conv_0" in t
    }
    if not parts:
        held = ", ".join(sorted(map(str, state))[:5]) or "no dictionary"
        raise UserError(f"{file} holds {held}, not a train state of score_sde's U-Nets (params_ema/Conv_0/…)")
    step = np.asarray(state.get("step"))
    return parts | ({"step": int(step)} if step.ndim == 0 and step.dtype.kind in "iu" else {})


def load(path: str, config: ConfigDict, like: Any) -> tuple[Tree, int]:
    """Load the weights at `path` as (our params on one device, step); see `unet_tables.load`."""
    return tables.load(path, read(path), from_original, config, like)


def _without_unit_axes(tree: Tree) -> Tree:
    flat = flatten_dict(tree)
    for path, leaf in flat.items():
        in_norm = len(path) > 1 and str(path[-2]).startswith("GroupNorm_")
        if in_norm and getattr(leaf, "shape", ())[:-1] == (1, 1, 1):
            flat[path] = leaf.reshape(-1)
    return unflatten_dict(flat)


def from_original(tree: Tree, s: Settings, shape: Shape) -> Tree:
    """Convert the original's params to those of our network, in the same dtype.

    Args:
        tree: The original's parameter tree.
        s: Settings of our network.
        shape: (height, width, channels) of the images.

    Raises:
        UserError: The tensors contradict the settings; names the fields and the first leaf that differs.
    """
    flat = flatten(tree)
    table = names(s, shape)
    return tables.to_ours(flat, table, tables.differences(describe(flat, s.attends(shape[0])), s, shape))


def to_original(params: Tree, s: Settings, shape: Shape) -> Tree:
    """Convert our params to the original's: the bit-exact inverse of `from_original`."""
    return unflatten_dict(tables.to_theirs(params, names(s, shape)), sep="/")


@lru_cache(maxsize=4)
def names(s: Settings, shape: Shape) -> Table:
    """Map original names to our leaves; a UserError says that the original code cannot represent the network."""
    if s.attention_up != "level" or s.num_classes or s.scale_shift:
        raise UserError(
            "these weights are of score_sde's networks; set config.model.family to 'ddpmpp' or 'ncsnpp', "
            "or to 'ddpm' under config.method='sde'"
        )
    places = dict(_places(s, shape[0]))

    def name_of(part: str, inside: str) -> str:
        if part == "frequencies":
            return f"{places[part]}/W"
        *layer, leaf = inside.split("/")
        if layer == ["shortcut"]:
            layer = ["Conv_2"] if s.resample == "block" else ["NIN_0"]
        full = "/".join([places[part], *(_LAYERS.get(name, name) for name in layer)])
        if "/NIN_" in full:
            leaf = {"kernel": "W", "bias": "b"}[leaf]
        elif "/Conv2d_" in full:
            leaf = {"kernel": "weight"}.get(leaf, leaf)
        pointwise = leaf == "kernel" and (full.startswith("Combine_") or "shortcut" in inside)
        return f"{full}/{leaf}" + "/1x1" * pointwise

    return tables.table(s, shape, name_of)


def _places(s: Settings, height: int) -> Iterator[tuple[str, str]]:
    """Yield (our part, original module), numbered by class in the order of construction."""
    pp = "pp" if s.resample == "block" else ""
    block = "ResnetBlockBigGANpp" if pp else "ResnetBlockDDPM"
    classes = (
        (r"frequencies", "GaussianFourierProjection", ""),
        (r"dense[01]", "Dense", ""),
        (r"conv_in|conv_out|conv_image\d+", "Conv", ""),
        (r"norm_out|norm_image\d+", "GroupNorm", ""),
        (r".*/res|mid[12]", block, ""),
        (r".*/attn|mid_attn", f"AttnBlock{pp}", ""),
        (r"shrink\d+/conv", "Downsample", "/Conv_0"),
        (r"grow\d+/conv", "Upsample", "/Conv_0"),
        (r"conv_pyramid\d+", "Downsample", "/Conv2d_0" if s.fir else "/Conv_0"),
        (r"pyramid\d+", "Combine", "/Conv_0"),
    )
    made: Counter[str] = Counter()
    for part in walk(s, height):
        kind, inner = next((kind, inner) for pattern, kind, inner in classes if re.fullmatch(pattern, part))
        yield part, f"{kind}_{made[kind]}{inner}"
        made[kind] += 1


def describe(flat: Flat, attends: tuple[bool, ...]) -> dict[str, Any]:
    """Return the settings that the tensors determine, and those fixed in all such weights.

    The result is compared by `unet_tables.differences`.

    Args:
        flat: Name → array.
        attends: Expected attention at each resolution; used where the tensors allow several choices.
    """
    big = "ResnetBlockBigGANpp_0/Conv_0/kernel" in flat
    block, attention = ("ResnetBlockBigGANpp", "AttnBlockpp") if big else ("ResnetBlockDDPM", "AttnBlock")
    width, inputs = (tables.size(flat, "Conv_0/kernel", axis) for axis in (3, 2))
    features, depth = _levels(flat, block)
    attentions = tables.count(flat, rf"{attention}_(\d+)/")
    channels = [tables.size(flat, f"{attention}_{i}/GroupNorm_0/scale", 0) for i in range(attentions)]
    last = max((name for name in flat if re.fullmatch(r"Conv_\d+/kernel", name)), key=lambda n: int(n[5:-7]))
    return {
        "resample": "block" if big else "conv",
        "inputs": inputs,
        "width": width,
        "multipliers": tuple(n / width for n in features),
        "depth": depth,
        "attends": _attends(channels, features, depth, attends),
        "outputs": tables.size(flat, last, 3) / inputs,
        "embedding": "fourier" if "GaussianFourierProjection_0/W" in flat else "ddpm",
        "pyramid_in": "residual"
        if "Downsample_0/Conv2d_0/weight" in flat
        else "skip"
        if "Combine_0/Conv_0/kernel" in flat
        else "none",
        "pyramid_out": "skip" if "GroupNorm_1/scale" in flat else "none",
        "heads": 1,
        "groups": 32,
    }


def _levels(flat: Flat, block: str) -> tuple[tuple[int, ...], int]:
    """Return (features of every resolution, depth).

    A U-Net with K resolutions of depth d has K (2d + 1) + 2 blocks and, where blocks resample, 2 (K − 1) more, whose
    shortcuts have equal numbers of input and output channels.
    """
    total = tables.count(flat, rf"{block}_(\d+)/")
    size = lambda i, axis: tables.size(flat, f"{block}_{i}/Conv_0/kernel", axis)
    if block == "ResnetBlockDDPM":
        levels = 1 + tables.count(flat, r"Upsample_(\d+)/Conv_0/")
        depth, every = (total - 2 - levels) // (2 * levels), 0
    else:
        between = [i for i in range(total) if size(i, 2) == size(i, 3) and f"{block}_{i}/Conv_2/kernel" in flat]
        levels = 1 + len(between) // 2
        depth, every = (between[0] if between else (total - 3) // 2), 1
    if depth < 1 or levels > 12 or (levels - 1) * (depth + every) >= total:
        raise UserError(f"the weights have {total} of {block}, which no U-Net of {levels} resolutions has")
    return tuple(size(i * (depth + every), 3) for i in range(levels)), depth


def _attends(
    channels: list[int], features: tuple[int, ...], depth: int, expected: tuple[bool, ...]
) -> tuple[bool, ...]:
    """Infer which resolutions have attention from the channels of all attentions; `expected` if it is consistent."""
    many = max(len(channels) - 1, 0) // (depth + 1)
    choices = list(itertools.combinations(range(len(features)), min(many, len(features))))
    fits = [c for c in choices if [features[i] for i in c] == channels[: many * depth : depth]]
    preferred = tuple(i for i, yes in enumerate(expected) if yes)
    chosen = preferred if preferred in fits else (fits or choices)[0]
    return tuple(i in chosen for i in range(len(features)))
