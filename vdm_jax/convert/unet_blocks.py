"""Names in the parameter tree of `networks.multiscale.UNet` for readers of published weights.

The network stacks blocks of equal shape: down0/first, down0/rest (all others along a leading axis) and, in the
decoder, up0/last. Published code numbers its blocks. This module renames a flat tree to down0/0/…, down0/1/…, up0/2/…
and back; nothing else changes, so a reader is a table between two sets of names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from vdm_jax.convert.vdm_layout import Flat, Shapes
from vdm_jax.networks.classifier import Classifier
from vdm_jax.networks.encoders import examples
from vdm_jax.networks.families import Settings
from vdm_jax.networks.multiscale import UNet

_BLOCK = re.compile(r"((?:down|up)\d+)/(first|rest|last|\d+)/(.+)")


def unstack(flat: Flat) -> Flat:
    """Convert leaves 'a/b/c' of our network to numbered blocks: down0/rest/… becomes down0/1/…, down0/2/…"""
    after = {m[1]: len(leaf) for name, leaf in flat.items() if (m := _BLOCK.match(name)) and m[2] == "rest"}
    blocks: Flat = {}
    for name, leaf in flat.items():
        m = _BLOCK.match(name)
        if m is None:
            blocks[name] = leaf
        elif m[2] == "rest":
            blocks |= {f"{m[1]}/{1 + k}/{m[3]}": layer for k, layer in enumerate(leaf)}
        else:
            blocks[f"{m[1]}/{0 if m[2] == 'first' else 1 + after.get(m[1], 0)}/{m[3]}"] = leaf
    return blocks


def stack(blocks: Flat) -> Flat:
    """Convert numbered blocks to our stacked leaves, the inverse of `unstack`."""
    matches = {name: _BLOCK.match(name) for name in blocks}
    ends: dict[str, int] = {}  # the number of the last block of each resolution
    for block in filter(None, matches.values()):
        ends[block[1]] = max(ends.get(block[1], 0), int(block[2]))
    flat: Flat = {}
    rest: dict[str, dict[int, np.ndarray]] = {}
    for name, m in matches.items():
        if m is None:
            flat[name] = blocks[name]
            continue
        level, number = m[1], int(m[2])
        if number == 0:
            flat[f"{level}/first/{m[3]}"] = blocks[name]
        elif level.startswith("up") and number == ends[level]:
            flat[f"{level}/last/{m[3]}"] = blocks[name]
        else:
            rest.setdefault(f"{level}/rest/{m[3]}", {})[number] = blocks[name]
    return flat | {name: np.stack([layers[k] for k in sorted(layers)]) for name, layers in rest.items()}


@lru_cache(maxsize=8)
def shapes(s: Settings, shape: tuple[int, ...], classes: int = 0) -> Shapes:
    """Return the shapes of all leaves of the network, with numbered blocks.

    Args:
        s: Settings of the network.
        shape: (height, width, channels) of the images.
        classes: Number of classes of a classifier; 0 for a U-Net.

    Raises:
        ValueError: As `families.check`.
    """
    net = Classifier(s, classes) if classes else UNet(s)
    z = jnp.zeros((1, *shape))
    abstract = jax.eval_shape(net.init, jax.random.key(0), z, jnp.zeros(1), examples(s.encoders, z))
    empty = {
        "/".join(path): np.broadcast_to(np.float32(0), leaf.shape)
        for path, leaf in flatten_dict(abstract["params"]).items()
    }
    return {name: leaf.shape for name, leaf in unstack(empty).items()}


def walk(s: Settings, height: int) -> Iterator[str]:
    """Yield the parts of the network in the order of evaluation, with numbered blocks.

    They are 'dense0', …, 'down0/0/res', 'down0/0/attn', …, 'shrink1/conv', …, 'mid1', 'mid_attn', 'mid2',
    'up1/0/res', …, 'norm_out', 'conv_out'.
    """
    attends, between = s.attends(height), _between(s)
    yield from descent(s, height)
    for i in reversed(range(len(s.multipliers))):
        for b in range(s.depth + 1):
            yield f"up{i}/{b}/res"
            yield from [f"up{i}/{b}/attn"] if attends[i] and s.attention_up == "block" else []
        yield from [f"up{i}/attn"] if attends[i] and s.attention_up == "level" else []
        yield from [f"norm_image{i}", f"conv_image{i}"] if s.pyramid_out == "skip" else []
        yield from [f"grow{i}/{between}"] if i else []
    yield from [] if s.pyramid_out == "skip" else ["norm_out", "conv_out"]


def descent(s: Settings, height: int) -> Iterator[str]:
    """Yield the parts up to the middle of the network, which a classifier also has."""
    attends, between = s.attends(height), _between(s)
    yield from ["frequencies"] if s.embedding == "fourier" else []
    yield from ("dense0", "dense1")
    yield from ["classes"] if s.num_classes else []
    yield from ["mapping"] if s.latent else []
    yield "conv_in"
    for i in range(len(s.multipliers)):
        if i:
            yield f"shrink{i}/{between}"
            if s.pyramid_in != "none":
                yield f"conv_pyramid{i}" if s.pyramid_in == "residual" else f"pyramid{i}"
        for b in range(s.depth):
            yield f"down{i}/{b}/res"
            yield from [f"down{i}/{b}/attn"] if attends[i] else []
    yield from ("mid1", "mid_attn", "mid2")


def _between(s: Settings) -> str:
    return "res" if s.resample == "block" else "conv"
