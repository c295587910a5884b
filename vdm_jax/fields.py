"""Config fields, and components, the parts of a config that have fields and declare them next to their code.

This module imports neither JAX nor the configs, so that any module can declare fields.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from vdm_jax.errors import UserError

# The values of a config by 'section.field'.
Given = Mapping[str, Any]


class Field(NamedTuple):
    """A field of a config.

    Attributes:
        default: The default value; it determines the type.
        help: A description for messages and documentation.
        choices: The legal values, for every item of a tuple; () for any.
        low: The smallest legal value, for every item of a tuple.
        high: The largest legal value, for every item of a tuple.
        resume: Whether a resumed run may change it.
        decisive: Whether the meaning of trained weights depends on it.
        exclusive: Whether it is an error if two variants of a config set it differently.
        meant: Illegal values that name something else in other programs, and what to do instead of the nearest choice.
    """

    default: Any
    help: str
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    resume: bool = False
    decisive: bool = False
    exclusive: bool = False
    meant: tuple[tuple[str, ...], str] = ((), "")


# A condition of `Component.when` that every truthy value meets.
SET: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Component:
    """A component of a config, which has fields and a condition.

    Attributes:
        fields: The fields by dotted names.
        when: The values of other components' fields that select this component. The other components come first.
        check: A function that raises UserError if the values of the config do not fit together.
    """

    fields: Mapping[str, Field]
    when: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    check: Callable[[Given], None] | None = None

    def unmet(self, known: Given) -> tuple[str, ...]:
        """Return the fields of `when` whose values in `known`, the values so far, do not select the component."""
        return tuple(name for name, legal in self.when.items() if not _meets(known.get(name), legal))


def _meets(value: Any, legal: tuple[Any, ...]) -> bool:
    """Return whether a value meets a condition of `Component.when`."""
    return value in legal if legal else bool(value)


ANY_TIME = True
# An interval of γ that contains every schedule.
EVERYWHERE = (-100.0, 100.0)


def demand(holds: bool, sentence: str) -> None:
    """Raise UserError with the sentence unless the condition holds."""
    if not holds:
        raise UserError(sentence)


def value(config: Mapping[str, Any] | Any, name: str, default: Any) -> Any:
    """Return the value of 'section.field', or the default if the config has no such field."""
    section, _, leaf = name.rpartition(".")
    return (config[section] if section else config).get(leaf, default)


def nearest(name: str, known: Iterable[Any]) -> str:
    """Return 'did you mean X?' if a known name is similar; otherwise name the nearest and list all of them."""
    names = [str(k) for k in known]
    if not names:
        return "there are none"
    best, close = most_similar(name, names)
    return f"did you mean {best!r}?" if close else f"the nearest is {best!r} of {', '.join(names)}"


def most_similar(name: str, names: list[str]) -> tuple[str, bool]:
    """Return the most similar of the names, and whether it is similar enough to suggest."""
    best = difflib.get_close_matches(name, names, 1, 0.0)[0]
    return best, difflib.SequenceMatcher(None, name, best).ratio() >= 0.5


def check_value(name: str, value: Any, field: Field) -> None:
    """Check the type and the bounds of a field's value, or of every item of a tuple.

    Raises:
        UserError: If the type is wrong or the value is illegal.
    """
    kind = type(field.default)
    if kind is tuple:
        item_kind = type(field.default[0]) if field.default else type(field.choices[0])
        if not isinstance(value, tuple) or not all(_is(item, item_kind) for item in value):
            what = "finite numbers" if item_kind is float else item_kind.__name__
            raise UserError(f"config.{name}={value!r} is not a tuple of {what}: {field.help}")
    elif kind is float and isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"config.{name}={value} must be a finite number: {field.help}")
    elif not _is(value, kind):
        raise UserError(f"config.{name}={value!r} is not of type {kind.__name__}: {field.help}")
    for item in value if kind is tuple else (value,):
        if field.choices and item not in field.choices:
            legal = ", ".join(map(repr, field.choices))
            hint = f"; {nearest(str(item), field.choices)}" if len(field.choices) > 1 else ""
            if str(item).lower() in field.meant[0]:
                hint = f"; {field.meant[1]}"
            raise UserError(f"config.{name}={item!r} is not one of {legal}{hint}")
        if field.low is not None and not item >= field.low:
            raise UserError(f"config.{name}={value!r} must be at least {field.low}: {field.help}")
        if field.high is not None and not item <= field.high:
            raise UserError(f"config.{name}={value!r} must be at most {field.high}: {field.help}")


def _is(value: Any, kind: type) -> bool:
    """Return whether a value has a type; integers count as floats, booleans are not numbers, floats must be finite."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
