"""Sequences that attention blocks attend to."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array


class Tokens(NamedTuple):
    """A sequence that attention attends to in addition to the pixels.

    states: [B, L, W]. mask: bool [B, L], False where attention ignores a position (padding, or all of it for ∅).
    """

    states: Array
    mask: Array
