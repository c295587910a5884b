"""Blocks that networks stack along a first axis, as numbered blocks, for readers of published weights.

    down0/first, down0/rest, up0/last     one resolution of a U-Net; only the decoder has `last`
    stage1/first, stage1/rest             one resolution of a ResNet
    …/blocks                              a transformer, all of whose blocks are stacked

Leaves are renamed to down0/0/…, up0/2/…, stage1/0/…, blocks/0/…, and back. Nothing else changes, so a reader is a table
between two sets of names.
"""

from __future__ import annotations

import re

import numpy as np

from vdm_jax.convert.vdm_layout import Flat

_STACKED = re.compile(r"((?:.*/)?(?:down|up|stage)\d+)/(first|rest|last)/(.+)|(?P<all>.*/blocks)/(?P<leaf>.+)")
_NUMBERED = re.compile(r"((?:.*/)?(?:(?:down|up|stage)\d+|blocks))/(\d+)/(.+)")


def unstack(flat: Flat) -> Flat:
    """Convert leaves 'a/b/c' of a network to numbered blocks: down0/rest/… becomes down0/1/…, down0/2/…"""
    matches = {path: _STACKED.match(path) for path in flat}
    after = {m[1]: len(flat[path]) for path, m in matches.items() if m and m[2] == "rest"}
    blocks: Flat = {}
    for path, m in matches.items():
        leaf = flat[path]
        if m is None:
            blocks[path] = leaf
        elif m["all"]:
            blocks |= {f"{m['all']}/{number}/{m['leaf']}": layer for number, layer in enumerate(leaf)}
        elif m[2] == "rest":
            blocks |= {f"{m[1]}/{number}/{m[3]}": layer for number, layer in enumerate(leaf, 1)}
        else:
            blocks[f"{m[1]}/{0 if m[2] == 'first' else 1 + after.get(m[1], 0)}/{m[3]}"] = leaf
    return blocks


def stack(blocks: Flat) -> Flat:
    """Convert numbered blocks to stacked leaves, the inverse of `unstack`."""
    matches = {path: _NUMBERED.match(path) for path in blocks}
    ends: dict[str, int] = {}  # the number of the last block of each group
    for block in filter(None, matches.values()):
        ends[block[1]] = max(ends.get(block[1], 0), int(block[2]))
    flat: Flat = {}
    stacked: dict[str, dict[int, np.ndarray]] = {}
    for path, m in matches.items():
        if m is None:
            flat[path] = blocks[path]
            continue
        group, number, leaf = m[1], int(m[2]), m[3]
        kind = group.rpartition("/")[2]
        if kind == "blocks":
            stacked.setdefault(f"{group}/{leaf}", {})[number] = blocks[path]
        elif number == 0:
            flat[f"{group}/first/{leaf}"] = blocks[path]
        elif kind.startswith("up") and number == ends[group]:
            flat[f"{group}/last/{leaf}"] = blocks[path]
        else:
            stacked.setdefault(f"{group}/rest/{leaf}", {})[number] = blocks[path]
    return flat | {path: np.stack([layers[k] for k in sorted(layers)]) for path, layers in stacked.items()}
