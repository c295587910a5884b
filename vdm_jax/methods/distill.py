"""Students of a DDPM that need few network calls: progressive distillation and one-step regression.

    progressive (Salimans & Ho 2022, arXiv:2202.00512): one DDIM step of the student for two of its teacher's,
    one step (Luhman & Luhman 2021, arXiv:2101.02388): the teacher's DDIM sample of a z_T, regressed on that z_T.

Both are a loss on x̂ of a network that starts from its teacher; the teacher is a frozen part of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vdm_jax.core.method import Batch, Context, Params, Terms
from vdm_jax.diffusion import losses, samplers, tables
from vdm_jax.diffusion.process import expand, q_sample
from vdm_jax.diffusion.samplers import Predict, Transition
from vdm_jax.fields import ANY_TIME, Component, Field
from vdm_jax.keys import fold, normal_like

COMPONENTS = (
    Component(
        {
            "training.distill": Field(
                "none",
                "a student of --weights, best of x or v: one step for two of its teacher's, or for all; it has a loss "
                "and levels of its own, whatever `weighting` and `times` say",
                ("none", "progressive", "one_step"),
            )
        },
        {"method": ("ddpm",)},
    ),
    Component(
        {
            "training.teacher": Field(
                "", "the weights of a student's teacher: a working directory or a file", resume=ANY_TIME
            )
        },
        {"training.distill": ("progressive", "one_step")},
    ),
    Component(
        {
            "training.student_steps": Field(
                4, "steps of a student, of 'progressive'; its teacher takes twice as many", low=1
            )
        },
        {"training.distill": ("progressive",)},
    ),
    Component(
        {"training.teacher_steps": Field(16, "steps of the teacher's DDIM, of 'one_step'", low=1)},
        {"training.distill": ("one_step",)},
    ),
)

# Purposes that a key is folded for.
LEVEL, NOISE, DROPOUT = range(3)

# (params, conditioning, dropout keys or None) → Predict
Predictor = Callable[[Params, Any, Array | None], Predict]
# (batch, keys) → what student and teacher are both conditioned on
CondOf = Callable[[Batch, Array], Any]
# params → the teacher's
TeacherOf = Callable[[Params], Params]


def target(z: Array, z_to: Array, frm: Transition, to: Transition) -> Array:
    """The x̃ from which one DDIM step t → s ends where z_to is (Salimans & Ho 2022, algorithm 2).

        x̃ = (z_s − r z_t)/(α_s − r α_t),      r = σ_s/σ_t

    frm: a step that begins at t; to: one that ends at s.
    """
    ratio = to.to.sigma / frm.frm.sigma
    gap = to.to.alpha - ratio * frm.frm.alpha
    return (z_to - expand(ratio, z.ndim) * z) / expand(gap, z.ndim)


def truncated_snr(gamma: Array) -> Array:
    """max(e^{−γ}, 1), the weight of ‖x − x̂‖² that does not vanish where the noise is all."""
    return jnp.maximum(jnp.exp(-gamma), 1.0)


def progressive_loss(
    predictor: Predictor,
    teacher_table: tables.Table,
    encode: Callable[[Array], Array],
    cond_of: CondOf,
    teacher_of: Callable[[Params], Params],
) -> Callable[[Params, Any, Batch, Context], tuple[Array, Terms]]:
    """The loss of a student that takes every second level of the teacher's table (of an even number of levels)."""
    steps = teacher_table.num_levels // 2

    def loss(params: Params, state: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        number = _draw(context, steps)
        x, cond = encode(batch["x"]), cond_of(batch, context.keys)
        first, second = teacher_table.at(2 * number + 1), teacher_table.at(2 * number)
        z = q_sample(x, normal_like(context.keys, x.shape[1:], NOISE), first.frm)
        guide = samplers.ddim(predictor(jax.lax.stop_gradient(teacher_of(params)), cond, None))
        z_to = guide(context.keys, guide(context.keys, z, first), second)
        wanted = jax.lax.stop_gradient(target(z, z_to, first, second))
        found = predictor(params, cond, fold(context.keys, DROPOUT))(z, first.frm)
        error = losses.error_per_dim(losses.squared_error(wanted, found.x), z)
        t = (number + 1).astype(z.dtype) / steps
        return truncated_snr(first.frm.gamma) * error, {"t": t, "error": error}

    return loss


def one_step_loss(
    predictor: Predictor,
    teacher_table: tables.Table,
    shape: tuple[int, ...],
    cond_of: CondOf,
    teacher_of: Callable[[Params], Params],
) -> Callable[[Params, Any, Batch, Context], tuple[Array, Terms]]:
    """‖x − x̂(z_T)‖²/D where x is the teacher's DDIM sample of z_T by all levels of its table; images are for what an
    upsampler is told alone."""

    def loss(params: Params, state: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        cond = cond_of(batch, context.keys)
        z = normal_like(context.keys, shape, NOISE)
        guide = samplers.ddim(predictor(jax.lax.stop_gradient(teacher_of(params)), cond, None))
        wanted, _ = samplers.run(guide, z, context.keys, teacher_table.reverse())
        last = teacher_table.level(jnp.full(len(z), teacher_table.num_levels - 1))
        found = predictor(params, cond, fold(context.keys, DROPOUT))(z, last)
        error = losses.error_per_dim(losses.squared_error(jax.lax.stop_gradient(wanted), found.x), z)
        return error, {"t": jnp.ones_like(error), "error": error}

    return loss


def _draw(context: Context, count: int) -> Array:
    """A number of each example, int [b] in 0 … count − 1."""
    draw: Any = lambda key: jax.random.randint(key, (), 0, count)
    return jax.vmap(draw)(fold(context.keys, LEVEL))
