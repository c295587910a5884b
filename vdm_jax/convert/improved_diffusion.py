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
from vdm_jax.convert.vdm_layout import Flat, Shapes, flatten
from vdm_jax.errors import UserError
from vdm_jax.networks.families import Settings

Tree = dict[str, Any]

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
_UNIT_AXES = {"shortcut": 2, "q": 1, "k": 1, "v": 1, "proj_out": 1}


def from_original(flat: Flat, s: Settings, shape: tuple[int, ...]) -> Tree:
    """Their state_dict → our params, in its dtype. shape: (height, width, channels) of the images.

    Raises UserError with what the tensors and the settings disagree in and the first key that differs.
    """
    table = names(s, shape)
    _check(flat, s, shape, table)
    blocks: Flat = {}
    for key, leaves in table.items():
        parts = [flat[key]] if len(leaves) == 1 else list(_by_head(flat[key], s.heads))
        blocks |= {leaf: _ours(leaf, part) for leaf, part in zip(leaves, parts, strict=True)}
    return unflatten_dict(layout.stack(blocks), sep="/")


def to_original(params: Tree, s: Settings, shape: tuple[int, ...]) -> Flat:
    """The inverse of `from_original`, bit for bit."""
    blocks = layout.unstack(flatten(params))
    wanted = layout.shapes(s, shape)
    if wrong := _first_difference({k: v.shape for k, v in blocks.items()}, wanted):
        raise UserError(f"the parameters are not those of the settings: {wrong}")
    flat: Flat = {}
    for key, leaves in names(s, shape).items():
        parts = [_theirs(leaf, blocks[leaf]) for leaf in leaves]
        flat[key] = parts[0] if len(parts) == 1 else _by_head_inverse(parts, s.heads)
    return flat


def describe(flat: Flat, height: int) -> dict[str, Any]:
    """The fields of `Settings` that the tensors determine, with their values; height: of the images.

    Raises UserError, naming the key, if the tensors are of no such network.
    """
    width, channels = _shape(flat, "input_blocks.0.0.weight", 4)[:2]
    levels: list[list[int]] = [[]]  # channels of the blocks of each level
    attention_at: list[int] = []
    for n in range(1, _count(flat)):
        block = f"input_blocks.{n}"
        if f"{block}.0.op.weight" in flat:
            levels.append([])
            continue
        levels[-1].append(_shape(flat, f"{block}.0.out_layers.3.weight", 4)[0])
        if f"{block}.1.qkv.weight" in flat and height >> (len(levels) - 1) not in attention_at:
            attention_at.append(height >> (len(levels) - 1))
    depth = max(map(len, levels))
    outputs, features = _shape(flat, "out.2.weight", 4)[0], levels[0][0] if levels[0] else width
    return {
        "width": width,
        "multipliers": tuple(max(c, default=width) / width for c in levels),
        "depth": depth,
        "attention_at": tuple(attention_at),
        "outputs": outputs / channels if outputs % channels else outputs // channels,
        "num_classes": _shape(flat, "label_emb.weight", 2)[0] if "label_emb.weight" in flat else 0,
        "scale_shift": _shape(flat, "input_blocks.1.0.emb_layers.1.weight", 2)[0] == 2 * features,
    }


def differences(flat: Flat, s: Settings, height: int) -> list[str]:
    """'depth: 3 in the weights, 2 in the settings', for every field that the tensors contradict."""
    found = describe(flat, height)
    sizes = {height >> i for i in range(len(found["multipliers"]))}
    asked = {"attention_at": {size for size in s.attention_at if size in sizes}}
    return [
        f"{name}: {value!r} in the weights, {getattr(s, name)!r} in the settings"
        for name, value in found.items()
        if (set(value) != asked[name] if name in asked else value != getattr(s, name))
    ]


def names(s: Settings, shape: tuple[int, ...]) -> dict[str, tuple[str, ...]]:
    """Their name → our leaves, blocks by number, that it holds: one, or (q, k, v); in the order of evaluation."""
    modules = dict(_modules(s, shape[0]))
    order = {part: place for place, part in enumerate(modules)}
    leaves = [(part, leaf) for leaf in layout.shapes(s, shape) for part in modules if leaf.startswith(f"{part}/")]
    table: dict[str, tuple[str, ...]] = {}
    for part, leaf in sorted(leaves, key=lambda pair: order[pair[0]]):
        *inside, kind = leaf.removeprefix(f"{part}/").split("/")
        key = f"{modules[part]}{_LAYERS[inside[0]] if inside else ''}.{'bias' if kind == 'bias' else 'weight'}"
        table[key] = (*table.get(key, ()), leaf)
    return {
        key: tuple(sorted(leaves, key=lambda leaf: "qkv".find(leaf.split("/")[-2]))) for key, leaves in table.items()
    }


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
    if not leaf.endswith("/kernel"):
        return a
    units = _UNIT_AXES.get(leaf.split("/")[-2], 0)
    return a.transpose(2, 3, 1, 0) if a.ndim == 4 and not units else a.reshape(a.shape[:2]).T


def _theirs(leaf: str, a: np.ndarray) -> np.ndarray:
    if not leaf.endswith("/kernel"):
        return a
    return (
        a.transpose(3, 2, 0, 1)
        if a.ndim == 4
        else a.T.reshape(*a.T.shape, *(1,) * _UNIT_AXES.get(leaf.split("/")[-2], 0))
    )


def _by_head(a: np.ndarray, heads: int) -> np.ndarray:
    """[heads · 3 · d, …] → q, k, v: [3, heads · d, …]."""
    split = a.reshape(heads, 3, -1, *a.shape[1:])
    return split.swapaxes(0, 1).reshape(3, -1, *a.shape[1:])


def _by_head_inverse(parts: list[np.ndarray], heads: int) -> np.ndarray:
    a = np.stack(parts)
    split = a.reshape(3, heads, -1, *a.shape[2:])
    return split.swapaxes(0, 1).reshape(-1, *a.shape[2:])


def _check(flat: Flat, s: Settings, shape: tuple[int, ...], table: dict[str, tuple[str, ...]]) -> None:
    ours = layout.shapes(s, shape)
    empty = lambda leaf: np.broadcast_to(np.float32(0), ours[leaf])
    wanted: Shapes = {}
    for key, leaves in table.items():
        rows, *rest = _theirs(leaves[0], empty(leaves[0])).shape
        wanted[key] = (len(leaves) * rows, *rest)
    first = _first_difference({key: a.shape for key, a in flat.items()}, wanted)
    if first is None:
        return
    fields = differences(flat, s, shape[0])
    which = "; ".join(fields) or "no field of the settings explains it"
    raise UserError(f"the weights are not those of the settings ({which}); the first key that differs: {first}")


def _first_difference(found: Shapes, wanted: Shapes) -> str | None:
    for key, size in wanted.items():
        if key not in found:
            return f"{key} of shape {size} is missing"
        if found[key] != size:
            return f"{key} has the shape {found[key]}, not {size}"
    extra = [key for key in found if key not in wanted]
    return f"{extra[0]} of shape {found[extra[0]]} is not expected" if extra else None


def _count(flat: Flat) -> int:
    return 1 + max((int(m[1]) for m in (re.match(r"input_blocks\.(\d+)\.", key) for key in flat) if m), default=0)


def _shape(flat: Flat, key: str, rank: int) -> tuple[int, ...]:
    if key not in flat or flat[key].ndim != rank:
        raise UserError(f"the weights have no usable key {key}; they are not those of improved-diffusion's U-Net")
    return flat[key].shape
