"""How a combination of fields is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vdm_jax.errors import UserError

# section.field → its value
Given = Mapping[str, Any]


def demand(holds: bool, sentence: str) -> None:
    """Raise UserError with the sentence if it does not hold."""
    if not holds:
        raise UserError(sentence)
