"""Names in the parameter tree of `networks.clip` for readers of published weights, which know blocks by their number.

The networks stack blocks of equal shape: …/blocks/fc1 of a transformer along its first axis, stage1/rest of a ResNet
behind stage1/first. Here a flat tree is renamed to …/blocks/0/fc1, …, stage1/0, stage1/1, … and back.
"""

from __future__ import annotations

import re

import numpy as np

from vdm_jax.convert.vdm_layout import Flat

_STACK = re.compile(r"(.*/blocks)/(.+)|(.*/stage\d)/(first|rest)/(.+)")
_BLOCK = re.compile(r"(.*/(?:blocks|stage\d))/(\d+)/(.+)")


def unstack(flat: Flat) -> Flat:
    """Blocks by number instead of along a first axis."""
    blocks: Flat = {}
    for path, leaf in flat.items():
        m = _STACK.match(path)
        if m is None:
            blocks[path] = leaf
        elif m[1]:
            blocks |= {f"{m[1]}/{k}/{m[2]}": layer for k, layer in enumerate(leaf)}
        elif m[4] == "first":
            blocks[f"{m[3]}/0/{m[5]}"] = leaf
        else:
            blocks |= {f"{m[3]}/{1 + k}/{m[5]}": layer for k, layer in enumerate(leaf)}
    return blocks


def stack(blocks: Flat) -> Flat:
    """The inverse of `unstack`."""
    flat: Flat = {}
    stacked: dict[str, dict[int, np.ndarray]] = {}
    for path, leaf in blocks.items():
        m = _BLOCK.match(path)
        if m is None:
            flat[path] = leaf
        elif m[1].endswith("blocks"):
            stacked.setdefault(f"{m[1]}/{m[3]}", {})[int(m[2])] = leaf
        elif m[2] == "0":
            flat[f"{m[1]}/first/{m[3]}"] = leaf
        else:
            stacked.setdefault(f"{m[1]}/rest/{m[3]}", {})[int(m[2])] = leaf
    return flat | {path: np.stack([layers[k] for k in sorted(layers)]) for path, layers in stacked.items()}
