"""Weights of openai/improved-diffusion ↔ our parameters of `networks.multiscale.UNet`.

    s = families.settings("improved", outputs=2, dropout_rate=0.3)          # its CIFAR-10
    params = from_original(flat, s, (32, 32, 3))

flat: its state_dict, name → numpy array. Its 3 × 3 kernels are [O, I, 3, 3], its linear layers [O, I], in attention
[O, I, 1], in shortcuts [O, I, 1, 1]; q, k and v are one layer whose rows are [q | k | v] of the first
head, then of the second, … No tensor shows this order, nor how many heads there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from vdm_jax.convert import unet_blocks as layout
from vdm_jax.convert import unet_tables as tables
from vdm_jax.convert.unet_tables import Shape, Tree
from vdm_jax.convert.vdm_layout import Flat, Shapes, flatten
from vdm_jax.errors import UserError
from vdm_jax.networks.families import Settings

Names = dict[str, tuple[str, ...]]

# Our layer within a part of the network → theirs.
_LAYERS = {
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
}


def from_original(flat: Flat, s: Settings, shape: Shape) -> Tree:
    """Their state_dict → our network's params, in its dtype. shape: (height, width, channels) of the images.

    Raises UserError with what the tensors and the settings disagree in and the first key that differs.
    """
    flat, leaf_shapes = flatten(flat), layout.shapes(s, shape)
    table = _names(s, shape[0], leaf_shapes)
    wrong = tables.differences(describe(flat), s, shape)
    first = tables.first_difference(flat, {key: _their_shape(leaves, leaf_shapes) for key, leaves in table.items()})
    if wrong or first:
        raise UserError(
            f"the weights belong to another model ({'; '.join(wrong) or 'no field of the config explains it'}); "
            f"the first key that differs: {first or 'none, its tensors would fit'}"
        )
    blocks: Flat = {}
    for key, leaves in table.items():
        parts = [flat[key]] if len(leaves) == 1 else list(_by_head(flat[key], s.heads))
        blocks |= {leaf: _ours(leaf, part) for leaf, part in zip(leaves, parts, strict=True)}
    return unflatten_dict(layout.stack(blocks), sep="/")


def to_original(params: Tree, s: Settings, shape: Shape) -> Flat:
    """The inverse of `from_original`, bit for bit."""
    blocks, leaf_shapes = layout.unstack(flatten(params)), layout.shapes(s, shape)
    if first := tables.first_difference(blocks, leaf_shapes):
        raise UserError(f"the parameters are not those of the network; the first leaf that differs: {first}")
    flat: Flat = {}
    for key, leaves in _names(s, shape[0], leaf_shapes).items():
        parts = [_theirs(leaf, blocks[leaf]) for leaf in leaves]
        flat[key] = parts[0] if len(parts) == 1 else _heads_together(parts, s.heads)
    return flat


def describe(flat: Flat) -> dict[str, Any]:
    """What the tensors tell of the settings, and what they don't but always is so; see `unet_tables.differences`.

    Raises UserError, naming the key, if the tensors are of no such network.
    """
    width, channels = (tables.size(flat, "input_blocks.0.0.weight", axis) for axis in (0, 1))
    features: list[list[int]] = [[]]  # of the blocks of each level
    attends = [False]
    for n in range(1, tables.count(flat, r"input_blocks\.(\d+)\.")):
        block = f"input_blocks.{n}"
        if f"{block}.0.op.weight" in flat:
            features.append([])
            attends.append(False)
        else:
            features[-1].append(tables.size(flat, f"{block}.0.out_layers.3.weight", 0))
            attends[-1] |= f"{block}.1.qkv.weight" in flat
    images = tables.size(flat, "out.2.weight", 0) / channels
    told = tables.size(flat, "input_blocks.1.0.emb_layers.1.weight", 0)
    return {
        "inputs": channels,
        "width": width,
        "multipliers": tuple(max(level, default=width) / width for level in features),
        "depth": max(map(len, features)),
        "attends": tuple(attends),
        "outputs": int(images) if images.is_integer() else images,
        "num_classes": tables.size(flat, "label_emb.weight", 0) if "label_emb.weight" in flat else 0,
        "scale_shift": told == 2 * tables.size(flat, "input_blocks.1.0.out_layers.3.weight", 0),
        "groups": 32,
        "embedding": "improved",
        "resample": "conv",
        "pyramid_in": "none",
        "pyramid_out": "none",
    }


def names(s: Settings, shape: Shape) -> Names:
    """Their name → our leaves, blocks by number, that it holds: one, or (q, k, v); in the order of evaluation."""
    return _names(s, shape[0], layout.shapes(s, shape))


def _names(s: Settings, height: int, leaf_shapes: Shapes) -> Names:
    table: Names = {}
    for part, module in _modules(s, height):
        inside = [leaf.removeprefix(f"{part}/").split("/") for leaf in leaf_shapes if leaf.startswith(f"{part}/")]
        for *layer, kind in sorted(inside, key=_place):
            key = f"{module}{_LAYERS[layer[0]] if layer else ''}.{'bias' if kind == 'bias' else 'weight'}"
            table[key] = (*table.get(key, ()), "/".join((part, *layer, kind)))
    return table


def _place(inside: list[str]) -> tuple[int, bool]:
    """Of a leaf within its part, as in their state_dict."""
    return list(_LAYERS).index(inside[0]) if len(inside) > 1 else 0, inside[-1] == "bias"


def _their_shape(leaves: tuple[str, ...], leaf_shapes: Shapes) -> Shape:
    rows, *rest = _theirs(leaves[0], np.broadcast_to(np.float32(0), leaf_shapes[leaves[0]])).shape
    return (len(leaves) * rows, *rest)


def _modules(s: Settings, height: int) -> Iterator[tuple[str, str]]:
    """(our part, their module) in the order of evaluation."""
    number, inside = {"input": 0, "output": -1}, 0
    for part in layout.walk(s, height):
        if part in _ENDS:
            yield part, _ENDS[part]
            continue
        side = "input" if part.startswith(("down", "shrink")) else "output"
        # halving is an entry of its own, doubling lies behind the last block of its level
        if part.startswith("shrink") or part.endswith("/res"):
            number[side], inside = number[side] + 1, 0
        suffix = {"shrink": ".op", "grow": ".conv"}.get(re.sub(r"\d.*", "", part), "")
        yield part, f"{side}_blocks.{number[side]}.{inside}{suffix}"
        inside += 1


def _ours(leaf: str, a: np.ndarray) -> np.ndarray:
    """A tensor of theirs in our layout."""
    if not leaf.endswith("/kernel"):
        return a
    return a.reshape(a.shape[:2]).T if a.ndim == 2 or _units(leaf) else a.transpose(2, 3, 1, 0)


def _theirs(leaf: str, a: np.ndarray) -> np.ndarray:
    """The inverse of `_ours`."""
    if not leaf.endswith("/kernel"):
        return a
    return a.T.reshape(*a.shape[::-1], *(1,) * _units(leaf)) if a.ndim == 2 else a.transpose(3, 2, 0, 1)


def _units(leaf: str) -> int:
    """Axes of size 1 behind [O, I] of a layer that is a convolution there and dense here."""
    layer = leaf.split("/")[-2]
    return 2 if layer == "shortcut" else int(layer in ("q", "k", "v", "proj_out"))


def _by_head(a: np.ndarray, heads: int) -> np.ndarray:
    """[heads · 3 · d, …] → q, k, v: [3, heads · d, …]."""
    return a.reshape(heads, 3, -1, *a.shape[1:]).swapaxes(0, 1).reshape(3, -1, *a.shape[1:])


def _heads_together(parts: list[np.ndarray], heads: int) -> np.ndarray:
    """The inverse of `_by_head`."""
    a = np.stack(parts)
    return a.reshape(3, heads, -1, *a.shape[2:]).swapaxes(0, 1).reshape(-1, *a.shape[2:])
