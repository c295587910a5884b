"""Sequences that attention attends to in addition to its own input."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array


class Tokens(NamedTuple):
    """A sequence that attention attends to in addition to its own input, the pixels of a U-Net or other tokens.

    Attributes:
        states: The states of the sequence, [B, L, W].
        mask: bool [B, L], False where attention ignores a position: at padding, and everywhere for ∅.
    """

    states: Array
    mask: Array
