"""The registry of components, in the order in which they are selected, and the fields that they give a config."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vdm_jax import common_fields, optimizer
from vdm_jax.conditioning import fields as conditioning_fields
from vdm_jax.config import rules as consistency
from vdm_jax.diffusion import likelihood, samplers, schedules, sde_schedules, sde_steps, tables
from vdm_jax.errors import UserError
from vdm_jax.fields import Component, Field, check_value, most_similar
from vdm_jax.gaussian import adaptive, networks
from vdm_jax.methods import classifier, clip, ddgan, ddpm, distill, flow_matching, sde, vdm
from vdm_jax.networks import coupling, discriminator, families, mlp, vdm_unet

# A component comes after those that declare the fields that select it.
COMPONENTS: tuple[Component, ...] = (
    common_fields.DATA,
    *(c for paper in (vdm, ddpm, sde, flow_matching, classifier, ddgan, distill, clip) for c in paper.COMPONENTS),
    *(c for room in (networks, vdm_unet, mlp, families, discriminator, coupling) for c in room.COMPONENTS),
    *(c for room in (schedules, tables, sde_schedules) for c in room.COMPONENTS),
    *conditioning_fields.COMPONENTS,
    common_fields.TRAINING,
    *optimizer.COMPONENTS,
    common_fields.SAMPLING,
    *(c for room in (samplers, sde_steps, adaptive) for c in room.COMPONENTS),
    common_fields.PERCENTILE,
    common_fields.EVALUATION,
    common_fields.PASSES,
    common_fields.SAMPLE_SETS,
    *likelihood.COMPONENTS,
    *consistency.RULES,
)
SECTIONS = ("data", "model", "schedule", "training", "optimizer", "sampling", "evaluation")


def parts(given: Mapping[str, Any]) -> Iterator[Component]:
    """Yield the components that the values select, in order; a missing field has its default."""
    known: dict[str, Any] = {}
    for component in COMPONENTS:
        if not component.unmet(known):
            known |= {name: given.get(name, field.default) for name, field in component.fields.items()}
            yield component


def active(given: Mapping[str, Any]) -> dict[str, Field]:
    """Return the fields of a config with these values, ordered by section."""
    held: dict[str, Field] = {}
    for component in parts(given):
        for name, field in component.fields.items():
            held.setdefault(name, field)
    return _by_section(held)


def field_table() -> dict[str, Field]:
    """Return all fields of all components, as the first component that has a field declares it."""
    table: dict[str, Field] = {}
    for component in COMPONENTS:
        for name, field in component.fields.items():
            table.setdefault(name, field)
    return _by_section(table)


def _by_section(table: dict[str, Field]) -> dict[str, Field]:
    """Sort fields by section and keep their order within a section."""
    place = lambda name: ("", *SECTIONS).index(name.rpartition(".")[0])
    return {name: table[name] for name in sorted(table, key=place)}


def check_field(name: str, value: Any, field: Field, given: Mapping[str, Any]) -> None:
    """Check the value of a field of the config `given`.

    Raises:
        UserError: If the value is illegal, or illegal for the selected components.
    """
    items = value if isinstance(value, tuple) else (value,)
    elsewhere = {c for component in COMPONENTS if name in component.fields for c in component.fields[name].choices}
    if field.choices and all(item in field.choices or item in elsewhere for item in items):
        for item in items:
            if item not in field.choices:
                paper = common_fields.PAPERS.get(given.get("method", ""))
                whole = name in ("schedule.kind", "model.network") and paper
                raise UserError(
                    f"config.{name}={item!r} does not go with {_chosen_by(name, given)}; it takes "
                    f"{' or '.join(map(repr, field.choices))}"
                    + (f"; --config={paper} has all settings of the paper" if whole else "")
                )
    check_value(name, value, field)


def _chosen_by(name: str, given: Mapping[str, Any]) -> str:
    """Return the setting that selects the component of a field, such as "config.method='ddpm'"."""
    owner = next(component for component in parts(given) if name in component.fields)
    held = {n: given.get(n, field.default) for n, field in active(given).items()}
    return " and ".join(f"config.{selector}={held[selector]!r}" for selector in owner.when)


def refusal(name: str, given: Mapping[str, Any]) -> str:
    """Return the sentence that says why a config with these values does not have a field that other configs have."""
    has, belongs = _lacking(name, given)
    return f"config.{name}: {has} has no such field; it belongs to {belongs}"


def _lacking(name: str, given: Mapping[str, Any]) -> tuple[str, str]:
    """Return the setting of the config that excludes a field, and the nearest setting that includes it."""
    held = {n: given.get(n, field.default) for n, field in active(given).items()}
    owners = [component for component in COMPONENTS if name in component.fields]
    # A selector that the config lacks counts as farther than another value of a selector that it has.
    distance = lambda component: sum(1 if n in held else 2 for n in component.unmet(held))
    nearest = min(owners, key=distance)
    selector = nearest.unmet(held)[0]
    alike = [c for c in owners if distance(c) == distance(nearest) and c.unmet(held)[0] == selector]
    belongs = _choice(selector, tuple(dict.fromkeys(value for c in alike for value in c.when[selector])))
    if selector in held:
        return f"config.{selector}={held[selector]!r}", belongs
    has, above = _lacking(selector, given)
    return has, f"{belongs} of {above}"


def _choice(selector: str, values: tuple[Any, ...]) -> str:
    """Write a setting that selects a component, such as "config.method='ddpm' or 'sde'"."""
    if not values:
        default = field_table()[selector].default
        return f"config.{selector}=True" if default is False else f"a config.{selector} that is not {default!r}"
    *others, last = map(repr, values)
    return f"config.{selector}={', '.join(others)}{' or ' * bool(others)}{last}"


def nearest_field(name: str, known: Iterable[str] = ()) -> str:
    """Suggest the field of the most similar name, as in 'did you mean config.model.width?'.

    An existing section is assumed to be right; otherwise a field of the same name in any section is preferred.

    Args:
        name: The unknown 'section.field'.
        known: The fields to choose from; all fields if empty.
    """
    names = list(known) or list(field_table())
    section, _, leaf = name.rpartition(".")
    inside = [other.rpartition(".")[2] for other in names if section and other.startswith(f"{section}.")]
    if inside:
        best, close = most_similar(leaf, inside)
        best = f"{section}.{best}"
    else:
        twins = [other for other in names if other.rpartition(".")[2] == leaf]
        best, close = most_similar(name, twins or names)
        close = close or bool(twins)
    return f"did you mean config.{best}?" if close else f"the nearest is config.{best}"
