"""What a field of a config is, and a part of a config that has fields; the parts declare theirs beside their code.

Free of JAX and of configs: modules of any room may declare fields by it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from vdm_jax.errors import UserError

# 'section.field' → its value, of the fields that a config holds
Given = Mapping[str, Any]


class Field(NamedTuple):
    """One field.

    default; help: what it does; choices, low, high: legal values or bounds, of every item of a tuple; resume: whether
    a resumed run may change it; decisive: whether the meaning of trained weights depends on it; exclusive: whether two
    variants of a config may not set it differently.
    """

    default: Any
    help: str
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    resume: bool = False
    decisive: bool = False
    exclusive: bool = False


# A condition that every value meets but 0, False and ''.
SET: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Component:
    """A part of a config and the fields that it has.

    fields: by dotted name. when: the fields of other parts, declared before, that choose it → the values that do.
    check: raises UserError for what its fields, and those of the parts that it is chosen by, demand of each other.
    """

    fields: Mapping[str, Field]
    when: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    check: Callable[[Given], None] | None = None

    def unmet(self, known: Given) -> tuple[str, ...]:
        """The fields of `when` that do not choose it; known: the fields that are held so far."""
        return tuple(name for name, legal in self.when.items() if not _meets(known.get(name), legal))


def _meets(value: Any, legal: tuple[Any, ...]) -> bool:
    return value in legal if legal else bool(value)


ANY_TIME = True
# An interval of γ that every schedule lies within.
EVERYWHERE = (-100.0, 100.0)


def demand(holds: bool, sentence: str) -> None:
    """Raise UserError with the sentence if it does not hold."""
    if not holds:
        raise UserError(sentence)


def value(config: Mapping[str, Any] | Any, name: str, default: Any) -> Any:
    """The value of 'section.field', or the default if the config has no such field."""
    section, _, leaf = name.rpartition(".")
    return (config[section] if section else config).get(leaf, default)


def nearest(name: str, known: Iterable[Any]) -> str:
    """'did you mean X?' if one of the known names is close, else the nearest and all of them."""
    names = [str(k) for k in known]
    if not names:
        return "there are none"
    best, close = most_similar(name, names)
    return f"did you mean {best!r}?" if close else f"the nearest is {best!r} of {', '.join(names)}"


def most_similar(name: str, names: list[str]) -> tuple[str, bool]:
    """The most similar of the names, and whether it is similar enough to be meant."""
    best = difflib.get_close_matches(name, names, 1, 0.0)[0]
    return best, difflib.SequenceMatcher(None, name, best).ratio() >= 0.5


def check_value(name: str, value: Any, field: Field) -> None:
    """Raise UserError if a field's value, or an item of a tuple, has the wrong type or is out of bounds."""
    kind = type(field.default)
    if kind is tuple:
        item_kind = type(field.default[0]) if field.default else type(field.choices[0])
        if not isinstance(value, tuple) or not all(_is(item, item_kind) for item in value):
            raise UserError(f"config.{name}={value!r} is not a tuple of {item_kind.__name__}: {field.help}")
    elif not _is(value, kind):
        raise UserError(f"config.{name}={value!r} is not of type {kind.__name__}: {field.help}")
    for item in value if kind is tuple else (value,):
        if field.choices and item not in field.choices:
            legal = ", ".join(map(repr, field.choices))
            hint = f"; {nearest(str(item), field.choices)}" if len(field.choices) > 1 else ""
            raise UserError(f"config.{name}={item!r} is not one of {legal}{hint}")
        if field.low is not None and not item >= field.low:
            raise UserError(f"config.{name}={value!r} must be at least {field.low}: {field.help}")
        if field.high is not None and not item <= field.high:
            raise UserError(f"config.{name}={value!r} must be at most {field.high}: {field.help}")


def _is(value: Any, kind: type) -> bool:
    """Of that type; integers are floats, booleans are no numbers, floats are finite."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
