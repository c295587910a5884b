"""Weights of openai/improved-diffusion ↔ our parameters of `networks.multiscale.UNet`.

    s = families.settings("improved", outputs=2, dropout_rate=0.3)          # its CIFAR-10
    params = from_original(flat, s, (32, 32, 3))

flat: the original's state_dict, name → numpy array. 3 × 3 kernels are [O, I, 3, 3], linear layers [O, I], in attention
[O, I, 1], in shortcuts [O, I, 1, 1]. q, k and v are one layer whose rows are [q | k | v] of the first head, then of
the second, … No tensor determines this order or the number of heads. The successor, openai/guided-diffusion, keeps
the names; `Form` describes its additions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import unflatten_dict

from vdm_jax.convert import unet_blocks as layout
from vdm_jax.convert import unet_tables as tables
from vdm_jax.convert.stacking import stack, unstack
from vdm_jax.convert.unet_tables import Shape, Tree
from vdm_jax.convert.vdm_layout import Flat, Shapes, flatten
from vdm_jax.errors import UserError
from vdm_jax.networks.families import Settings

Names = dict[str, tuple[str, ...]]


class Form(NamedTuple):
    """Variant of the original's layout.

    Attributes:
        classes: Number of classes of a classifier; 0 for a U-Net.
        heads_first: True if the rows of q, k and v are [q | k | v] of each head in turn; False if they are q of all
            heads, then k, then v. Attention pooling always has the latter order.
    """

    classes: int = 0
    heads_first: bool = True


ORIGINAL = Form()

# Our layer within a part of the network → the original's.
_LAYERS = {
    "positions": ".positional_embedding",
    "norm1": ".in_layers.0",
    "conv1": ".in_layers.2",
    "cond_proj": ".emb_layers.1",
    "norm2": ".out_layers.0",
    "conv2": ".out_layers.3",
    "shortcut": ".skip_connection",
    "norm": ".norm",
    "q": ".qkv",
    "k": ".qkv",
    "v": ".qkv",
    "proj_out": ".proj_out",
}
_POOL = {"q": ".qkv_proj", "k": ".qkv_proj", "v": ".qkv_proj", "proj_out": ".c_proj"}
_ENDS = {
    "dense0": "time_embed.0",
    "dense1": "time_embed.2",
    "classes": "label_emb",
    "conv_in": "input_blocks.0.0",
    "mid1": "middle_block.0",
    "mid_attn": "middle_block.1",
    "mid2": "middle_block.2",
    "norm_out": "out.0",
    "conv_out": "out.2",
    "pool": "out.2",
}


def from_original(flat: Flat, s: Settings, shape: Shape, form: Form = ORIGINAL) -> Tree:
    """Convert the original's state_dict to the params of our network, in the same dtype.

    Args:
        flat: Name → array.
        s: Settings of our network.
        shape: (height, width, channels) of the images.
        form: Variant of the layout.

    Raises:
        UserError: The tensors contradict the settings; names the fields and the first key that differs.
    """
    flat, leaf_shapes = flatten(flat), layout.shapes(s, shape, form.classes)
    table = _names(s, shape[0], leaf_shapes, form)
    expected = {"num_classes": form.classes} if form.classes else {}
    wrong = tables.differences(describe(flat, s, shape), s, shape, **expected)
    tables.refuse(flat, {key: _their_shape(leaves, leaf_shapes) for key, leaves in table.items()}, wrong)
    blocks: Flat = {}
    for key, leaves in table.items():
        parts = [flat[key]] if len(leaves) == 1 else list(_split(flat[key], _heads(key, flat[key], s, form)))
        blocks |= {leaf: _ours(leaf, part) for leaf, part in zip(leaves, parts, strict=True)}
    return unflatten_dict(stack(blocks), sep="/")


def to_original(params: Tree, s: Settings, shape: Shape, form: Form = ORIGINAL) -> Flat:
    """Convert our params to the original's: the bit-exact inverse of `from_original`."""
    blocks, leaf_shapes = unstack(flatten(params)), layout.shapes(s, shape, form.classes)
    if first := tables.first_difference(blocks, leaf_shapes):
        raise UserError(f"the parameters are not those of the network; the first leaf that differs: {first}")
    flat: Flat = {}
    for key, leaves in _names(s, shape[0], leaf_shapes, form).items():
        parts = np.concatenate([_theirs(leaf, blocks[leaf]) for leaf in leaves])
        flat[key] = parts if len(leaves) == 1 else _join(parts, _heads(key, parts, s, form))
    return flat


def describe(flat: Flat, s: Settings, shape: Shape) -> dict[str, Any]:
    """Return the settings that the tensors determine, and those fixed in all such weights.

    The result is compared by `unet_tables.differences`.

    Args:
        flat: Name → array.
        s: Expected settings; they supply the number of resolutions of a classifier.
        shape: Expected (height, width, channels) of the images.

    Raises:
        UserError: The tensors are not those of such a network; names the key.
    """
    inputs = tables.size(flat, "input_blocks.0.0.weight", 1)
    projected = tables.size(flat, "input_blocks.1.0.emb_layers.1.weight", 0)
    features = tables.size(flat, "input_blocks.1.0.out_layers.3.weight", 0)
    return {
        "inputs": inputs,
        "width": tables.size(flat, "time_embed.0.weight", 1),
        **(_of_unet(flat, shape) if "output_blocks.0.0.out_layers.3.weight" in flat else _of_classifier(flat, s)),
        "scale_shift": projected == 2 * features,
        "groups": 32,
        "embedding": "improved",
        "pyramid_in": "none",
        "pyramid_out": "none",
    }


def _of_unet(flat: Flat, shape: Shape) -> dict[str, Any]:
    """Read the settings of a U-Net; in its decoder, an upsampling layer ends each resolution except the finest."""
    width = tables.size(flat, "time_embed.0.weight", 1)
    levels: list[list[str]] = [[]]  # blocks of each resolution, the coarsest first
    kinds = set()
    for n in range(tables.count(flat, r"output_blocks\.(\d+)\.")):
        block = f"output_blocks.{n}"
        levels[-1].append(block)
        doubling = [k for k in flat if re.match(rf"{block}\.[12]\.(conv|in_layers\.2)\.weight", k)]
        if doubling:
            levels.append([])
            kinds.add("conv" if doubling[0].endswith(".conv.weight") else "block")
    levels.reverse()
    size = lambda block: tables.size(flat, f"{block}.0.out_layers.3.weight", 0)
    images = tables.size(flat, "out.2.weight", 0) / shape[-1]
    return {
        "multipliers": tuple(max(map(size, level), default=width) / width for level in levels),
        "depth": max(map(len, levels)) - 1,
        "attends": tuple(any(f"{block}.1.qkv.weight" in flat for block in level) for level in levels),
        "outputs": int(images) if images.is_integer() else images,
        "num_classes": tables.size(flat, "label_emb.weight", 0) if "label_emb.weight" in flat else 0,
        **({"resample": kinds.pop()} if len(kinds) == 1 else {}),
    }


def _of_classifier(flat: Flat, s: Settings) -> dict[str, Any]:
    """Read the settings of a classifier; `s` supplies its number of resolutions, which no tensor determines."""
    width, levels = tables.size(flat, "time_embed.0.weight", 1), len(s.multipliers)
    depth = tables.count(flat, r"input_blocks\.(\d+)\.") / levels - 1
    settings = {"num_classes": tables.size(flat, "out.2.c_proj.weight", 0), "depth": depth}
    if not depth.is_integer() or depth < 1:
        return settings
    blocks = [[f"input_blocks.{1 + i * (int(depth) + 1) + k}" for k in range(int(depth))] for i in range(levels)]
    return settings | {
        "depth": int(depth),
        "multipliers": tuple(tables.size(flat, f"{level[0]}.0.out_layers.3.weight", 0) / width for level in blocks),
        "attends": tuple(any(f"{block}.1.qkv.weight" in flat for block in level) for level in blocks),
    }


def names(s: Settings, shape: Shape, form: Form = ORIGINAL) -> Names:
    """Map each original name to our leaves, one or (q, k, v), with numbered blocks, in the order of evaluation."""
    return _names(s, shape[0], layout.shapes(s, shape, form.classes), form)


def _names(s: Settings, height: int, leaf_shapes: Shapes, form: Form) -> Names:
    table: Names = {}
    for part, module in _modules(s, height, form):
        layers = _LAYERS | _POOL if part == "pool" else _LAYERS
        inside = [leaf.removeprefix(f"{part}/").split("/") for leaf in leaf_shapes if leaf.startswith(f"{part}/")]
        for *layer, kind in sorted(inside, key=_place):
            ending = {"bias": ".bias", "positions": layers["positions"]}.get(kind, ".weight")
            key = f"{module}{layers[layer[0]] if layer else ''}{ending}"
            table[key] = (*table.get(key, ()), "/".join((part, *layer, kind)))
    return table


def _place(inside: list[str]) -> tuple[int, bool]:
    """Return the sort key of a leaf within its part, for the order of the original's state_dict."""
    return list(_LAYERS).index(inside[0]) if len(inside) > 1 else 0, inside[-1] == "bias"


def _their_shape(leaves: tuple[str, ...], leaf_shapes: Shapes) -> Shape:
    rows, *rest = _theirs(leaves[0], np.broadcast_to(np.float32(0), leaf_shapes[leaves[0]])).shape
    return (len(leaves) * rows, *rest)


def _modules(s: Settings, height: int, form: Form) -> Iterator[tuple[str, str]]:
    """Yield (our part, original module) in the order of evaluation."""
    number, inside = {"input": 0, "output": -1}, 0
    for part in (*layout.descent(s, height), "norm_out", "pool") if form.classes else layout.walk(s, height):
        if part in _ENDS:
            yield part, _ENDS[part]
            continue
        side, grows = "input" if part.startswith(("down", "shrink")) else "output", part.startswith("grow")
        # downsampling is a separate entry; upsampling follows the last block of its resolution
        if part.startswith("shrink") or (part.endswith("/res") and not grows):
            number[side], inside = number[side] + 1, 0
        suffix = (".conv" if grows else ".op") if part.endswith("/conv") else ""
        yield part, f"{side}_blocks.{number[side]}.{inside}{suffix}"
        inside += 1


def _ours(leaf: str, a: np.ndarray) -> np.ndarray:
    """Transpose a tensor of the original to our layout."""
    if not leaf.endswith(("/kernel", "/positions")):
        return a
    return a.reshape(a.shape[:2]).T if a.ndim == 2 or _units(leaf) else a.transpose(2, 3, 1, 0)


def _theirs(leaf: str, a: np.ndarray) -> np.ndarray:
    """Transpose one of our tensors to the original layout, the inverse of `_ours`."""
    if not leaf.endswith(("/kernel", "/positions")):
        return a
    return a.T.reshape(*a.shape[::-1], *(1,) * _units(leaf)) if a.ndim == 2 else a.transpose(3, 2, 0, 1)


def _units(leaf: str) -> int:
    """Return the number of trailing axes of size 1 in the original, for layers that are dense here."""
    layer = leaf.split("/")[-2]
    return 2 if layer == "shortcut" else int(layer in ("q", "k", "v", "proj_out"))


def _heads(key: str, a: np.ndarray, s: Settings, form: Form) -> int:
    """Return the number of [q | k | v] groups in the rows of a."""
    return s.heads_of(len(a) // 3) if form.heads_first and not key.startswith("out.") else 1


def _split(a: np.ndarray, heads: int) -> np.ndarray:
    """Split [heads · 3 · d, …] into q, k, v: [3, heads · d, …]."""
    return a.reshape(heads, 3, -1, *a.shape[1:]).swapaxes(0, 1).reshape(3, -1, *a.shape[1:])


def _join(a: np.ndarray, heads: int) -> np.ndarray:
    """Join concatenated q, k, v [3 · heads · d, …], the inverse of `_split`."""
    return a.reshape(3, heads, -1, *a.shape[1:]).swapaxes(0, 1).reshape(-1, *a.shape[1:])
