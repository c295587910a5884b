"""Rules for methods with a table of noise levels: DDPM, Improved DDPM, distilled students, and noisy classifiers."""

from __future__ import annotations

from vdm_jax.errors import UserError
from vdm_jax.fields import Given, demand

# The largest ᾱ of a level at which sampling may start from pure noise.
MOST_SIGNAL = 0.1


def _check_table(given: Given) -> int:
    """Check the number of levels, T, of a table, and return it."""
    total = num_levels(given)
    length = "step_variance" if given["schedule.kind"] == "constant_sigma" else "num_timesteps"
    demand(
        1 < total <= 2**20,
        f"config.schedule.{length}={given[f'schedule.{length}']} makes {total:,} level{'s'[: total != 1]}; "
        f"a schedule has 2 to {2**20:,}",
    )
    levels = given["evaluation.levels"]
    demand(
        levels == 0 or 2 <= levels <= total,
        f"config.evaluation.levels={levels} must be 0, for all, or 2 to {total}, the levels of the schedule",
    )
    return total


def check_classifier(given: Given) -> None:
    """Check the table and the number of classes of a noisy classifier."""
    _check_table(given)
    classes = given["model.num_classes"]
    demand(classes > 1, f"config.model.num_classes={classes}: a classifier needs the data's classes, two or more")


def check_ddpm(given: Given) -> None:
    """Check the table, the loss, the respacing, and the distillation of a DDPM."""
    total = _check_table(given)
    demand(
        given["training.weighting"] != "hybrid" or given["model.variance"] == "learned",
        "config.training.weighting='hybrid' trains a learned variance; set config.model.variance='learned'",
    )
    demand(
        given["training.times"] != "importance" or given["training.weighting"] != "simple",
        "config.training.times='importance' draws levels by their terms of the bound; "
        "set config.training.weighting='vlb', or times='stratified'",
    )
    _check_respacing(given, total)
    kind = given["training.distill"]
    if kind == "none":
        return
    name, factor = ("teacher_steps", 1) if kind == "one_step" else ("student_steps", 2)
    demand(
        factor * given[f"training.{name}"] <= total,
        f"config.training.{name}={given[f'training.{name}']} needs {factor * given[f'training.{name}']} levels, "
        f"and the schedule has {total}",
    )
    steps = 1 if kind == "one_step" else given["training.student_steps"]
    sampled = given["sampling.sampler"], given["sampling.respacing"], given["sampling.num_steps"]
    demand(
        sampled == ("ddim", f"even{steps}", steps),
        f"config.training.distill={kind!r} trains a student for only {steps} level{'s'[: steps != 1]}; "
        f"set config.sampling.sampler='ddim', config.sampling.respacing='even{steps}' "
        f"and config.sampling.num_steps={steps}",
    )


def _check_respacing(given: Given, total: int) -> None:
    """Check that the sampler's levels exist and that the first of them is nearly pure noise."""
    from vdm_jax.diffusion import tables  # imports JAX, which the other checks do not need

    spacing, steps = given["sampling.respacing"], given["sampling.num_steps"]
    demand(
        bool(spacing) or steps <= total,
        f"config.sampling.num_steps={steps} is more than the {total} levels of the schedule; try {total}",
    )
    try:
        visited = tables.spaced(total, spacing or str(steps))
    except ValueError as error:
        raise UserError(f"config.sampling.respacing={error}") from error
    demand(
        len(visited) == steps,
        f"config.sampling.respacing={spacing!r} visits {len(visited)} levels; "
        f"set config.sampling.num_steps={len(visited)}",
    )
    section = "schedule."
    table = tables.betas(**{name.removeprefix(section): v for name, v in given.items() if name.startswith(section)})
    left = float((1 - table[: visited[-1] + 1]).prod())
    which = f"respacing={spacing!r}" if spacing else f"num_steps={steps}"
    demand(
        left <= MOST_SIGNAL or visited[-1] == total - 1,
        f"config.sampling.{which} starts from pure noise at level {visited[-1] + 1} of {total}, where the image has "
        f"{left:.0%} of the variance; set config.sampling.respacing='even{steps}', which starts at the last level",
    )


def num_levels(given: Given) -> int:
    """Return the number of levels, T, of a config's table."""
    if given["schedule.kind"] == "constant_sigma":
        from vdm_jax.diffusion import tables

        return tables.constant_levels(given["schedule.step_variance"], given["schedule.remaining"])
    return given["schedule.num_timesteps"]
