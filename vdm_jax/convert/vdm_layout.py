"""The parameter tree of google-research/vdm: its layout, and the names of its leaves here.

The table `leaves` maps every leaf of the original's network to its path in ours, its layer in a stack, and its
shape. Conversion in both directions and the check of all leaves use this table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from vdm_jax.errors import UserError

Flat = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


class Layout(NamedTuple):
    """The parts of a model that its tensors determine; features is 0 unless the schedule is a monotone network."""

    channels: int
    width: int
    depth: int
    attention: bool
    fourier: bool
    schedule: str  # linear, learned_scalar or learned_monotone
    features: int


class Leaf(NamedTuple):
    """The place of an original leaf in our network; layer is None if it is not part of a stack."""

    path: str
    layer: int | None
    shape: tuple[int, ...]


def flatten(tree: Mapping[str, Any]) -> Flat:
    """Flatten a tree to 'a/b/c' → array; raise UserError for a leaf that is not an array of floats."""
    flat = {"/".join(map(str, path)): leaf for path, leaf in flatten_dict(dict(tree)).items()}
    for name, leaf in flat.items():
        if not jnp.issubdtype(getattr(leaf, "dtype", np.dtype(object)), jnp.floating):  # bfloat16 too
            raise UserError(f"leaf {name} of the weights is not an array of floats; is it the right file?")
    return {name: np.asarray(leaf) for name, leaf in flat.items()}


def check_shapes(flat: Flat, expected: Shapes) -> None:
    """Raise UserError with the first leaf that is missing, unexpected or has the wrong shape."""
    for name in sorted(flat.keys() | expected.keys()):
        if name not in flat:
            raise UserError(f"the weights lack the leaf {name} of shape {expected[name]}; are they complete?")
        if name not in expected:
            raise UserError(f"the weights have a leaf {name} that the network does not have")
        if flat[name].shape != expected[name]:
            raise UserError(f"leaf {name} of the weights has the shape {flat[name].shape}, not {expected[name]}")


def of_original(flat: Flat) -> Layout:
    """Infer the layout from the original's leaves, without checking every leaf."""
    down, up = (_count(flat, rf"score_model/{side}\.block_(\d+)/") for side in ("down", "up"))
    kind, features = "linear", 0
    if "gamma/w" in flat or "gamma/b" in flat:
        kind = "learned_scalar"
    elif any(name.startswith("gamma/l") for name in flat):
        kind, features = "learned_monotone", _axis(flat, "gamma/l2/kernel", 1)
    conv_in, channels = "score_model/conv_in/kernel", _axis(flat, "score_model/conv_out/kernel", 3)
    return Layout(
        channels=channels,
        width=_axis(flat, conv_in, 3),
        depth=max(down, up - 1),
        attention=any(re.match(r"score_model/(down|up)\.attn_", name) for name in flat),
        fourier=_axis(flat, conv_in, 2) > channels,
        schedule=kind,
        features=features,
    )


def of_ours(network: Flat, schedule: Flat) -> Layout:
    """Infer the layout from our leaves, without checking every leaf."""
    kind = "linear" if not schedule else "learned_scalar"
    features = schedule["shape/out"].size if "shape/out" in schedule else 0
    channels = _axis(network, "conv_out/kernel", 3)
    return Layout(
        channels=channels,
        width=_axis(network, "conv_in/kernel", 3),
        depth=_axis(network, "down/res/conv1/kernel", 0),
        attention=any(name.startswith("down/attn/") for name in network),
        fourier=_axis(network, "conv_in/kernel", 2) > channels,
        schedule="learned_monotone" if features else kind,
        features=features,
    )


def _axis(flat: Flat, name: str, axis: int) -> int:
    if name not in flat or flat[name].ndim <= axis:
        raise UserError(f"the weights have no usable leaf {name}; they are not those of a VDM U-Net")
    return flat[name].shape[axis]


def _count(flat: Flat, pattern: str) -> int:
    return len({m[1] for m in (re.match(pattern, name) for name in flat) if m})


def schedule_shapes(layout: Layout) -> Shapes:
    """Return the shapes of the leaves of the original's γ(t); a fixed schedule has none."""
    k = layout.features
    kinds: dict[str, Shapes] = {
        "linear": {},
        "learned_scalar": {"gamma/w": (1,), "gamma/b": (1,)},
        "learned_monotone": {
            "gamma/l1/kernel": (1, 1),
            "gamma/l1/bias": (1,),
            "gamma/l2/kernel": (1, k),
            "gamma/l2/bias": (k,),
            "gamma/l3/kernel": (k, 1),
        },
    }
    return kinds[layout.schedule]


def leaves(layout: Layout) -> dict[str, Leaf]:
    """Map original names to our leaves for the complete network, with the layers of a stack in order."""
    n, channels = layout.width, layout.channels
    table: dict[str, Leaf] = {}

    def add(theirs: str, ours: str, layer: int | None, shapes: Shapes) -> None:
        for name, shape in shapes.items():
            table[f"score_model/{theirs}/{name}"] = Leaf(f"{ours}/{name}", layer, shape)

    def add_all(theirs: str, ours: str, layer: int | None, modules: Iterator[_Module]) -> None:
        for their_module, our_module, shapes in modules:
            add(f"{theirs}/{their_module}", f"{ours}/{our_module}", layer, shapes)

    add("dense0", "dense0", None, _dense(n + 1, 4 * n))
    add("dense1", "dense1", None, _dense(4 * n, 4 * n))
    add("conv_in", "conv_in", None, _conv(channels * (5 if layout.fourier else 1), n))
    add_all("mid.block_1", "mid1", None, _res_block(n, n))
    add_all("mid.attn_1", "mid_attn", None, _attention(n))
    add_all("mid.block_2", "mid2", None, _res_block(n, n))
    for side, depth, incoming in (("down", layout.depth, n), ("up", layout.depth + 1, 2 * n)):
        for i in range(depth):
            add_all(f"{side}.block_{i}", f"{side}/res", i, _res_block(incoming, n))
            if layout.attention:
                add_all(f"{side}.attn_{i}", f"{side}/attn", i, _attention(n))
    add("GroupNorm_0", "norm_out", None, _norm(n))
    add("conv_out", "conv_out", None, _conv(n, channels))
    return table


_Module = tuple[str, str, Shapes]  # name in the original, name here, shapes of its leaves


def _norm(channels: int) -> Shapes:
    return {"scale": (channels,), "bias": (channels,)}


def _dense(inputs: int, outputs: int) -> Shapes:
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


def _conv(inputs: int, outputs: int) -> Shapes:
    return {"kernel": (3, 3, inputs, outputs), "bias": (outputs,)}


def _res_block(inputs: int, n: int) -> Iterator[_Module]:
    yield "GroupNorm_0", "norm1", _norm(inputs)
    yield "conv1", "conv1", _conv(inputs, n)
    yield "cond_proj", "cond_proj", {"kernel": (4 * n, n)}
    yield "GroupNorm_1", "norm2", _norm(n)
    yield "conv2", "conv2", _conv(n, n)
    if inputs != n:
        yield "nin_shortcut", "shortcut", _dense(inputs, n)


def _attention(n: int) -> Iterator[_Module]:
    yield "GroupNorm_0", "norm", _norm(n)
    for name in ("q", "k", "v", "proj_out"):
        yield name, name, _dense(n, n)
