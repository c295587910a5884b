"""Distillation of a DDPM into a student with few sampling steps: progressive distillation and one-step regression.

    progressive (Salimans & Ho 2022, arXiv:2202.00512): one DDIM step of the student matches two of its teacher,
    one step (Luhman & Luhman 2021, arXiv:2101.02388): x̂(z_T) matches the teacher's DDIM sample from the same z_T.

Both are losses on x̂ of a network that is initialized from its teacher. The teacher is a frozen part of the model.
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
                "train a student of training.teacher that replaces two of its steps by one (progressive) or all of "
                "them (one_step); best with prediction x or v; ignores training.weighting and training.times",
                ("none", "progressive", "one_step"),
            )
        },
        {"method": ("ddpm",)},
    ),
    Component(
        {
            "training.teacher": Field(
                "", "weights of the student's teacher: a working directory or a file", resume=ANY_TIME
            )
        },
        {"training.distill": ("progressive", "one_step")},
    ),
    Component(
        {
            "training.student_steps": Field(
                4, "sampling steps of a 'progressive' student; its teacher takes twice as many", low=1
            )
        },
        {"training.distill": ("progressive",)},
    ),
    Component(
        {"training.teacher_steps": Field(16, "DDIM steps of the teacher, for 'one_step'", low=1)},
        {"training.distill": ("one_step",)},
    ),
)

# The purposes that keys are folded with.
LEVEL, NOISE, DROPOUT = range(3)

# (params, conditioning, dropout keys or None) → Predict
Predictor = Callable[[Params, Any, Array | None], Predict]
# (batch, keys) → the conditions of both the student and the teacher
CondOf = Callable[[Batch, Array], Any]
# params → the teacher's params
TeacherOf = Callable[[Params], Params]


def target(z: Array, z_to: Array, frm: Transition, to: Transition) -> Array:
    """Return the x̃ for which one DDIM step from z_t arrives at z_s (Salimans & Ho 2022, algorithm 2).

        x̃ = (z_s − r z_t)/(α_s − r α_t),      r = σ_s/σ_t

    Args:
        z: z_t, [B, …].
        z_to: z_s, [B, …].
        frm: A step that begins at t.
        to: A step that ends at s.
    """
    ratio = to.to.sigma / frm.frm.sigma
    gap = to.to.alpha - ratio * frm.frm.alpha
    return (z_to - expand(ratio, z.ndim) * z) / expand(gap, z.ndim)


def truncated_snr(gamma: Array) -> Array:
    """Return max(e^{−γ}, 1), the truncated-SNR weight of ‖x − x̂‖², which does not vanish at the highest noise."""
    return jnp.maximum(jnp.exp(-gamma), 1.0)


def progressive_loss(
    predictor: Predictor,
    teacher_table: tables.Table,
    encode: Callable[[Array], Array],
    cond_of: CondOf,
    teacher_of: Callable[[Params], Params],
) -> Callable[[Params, Any, Batch, Context], tuple[Array, Terms]]:
    """Return the loss of progressive distillation, max(SNR, 1) ‖x̃ − x̂‖²/D (Salimans & Ho 2022, algorithm 2).

    Args:
        predictor: (params, conditions, dropout keys or None) → Predict.
        teacher_table: The teacher's noise levels, an even number; the student takes every second one.
        encode: Data → the scale of clean data.
        cond_of: (batch, keys) → conditions.
        teacher_of: params → the teacher's params.
    """
    steps = teacher_table.num_levels // 2

    def loss(params: Params, state: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        number = _draw(context, steps)
        x, cond = encode(batch["x"]), cond_of(batch, context.keys)
        first, second = teacher_table.at(2 * number + 1), teacher_table.at(2 * number)
        z = q_sample(x, normal_like(context.keys, x.shape[1:], NOISE), first.frm)
        guide = samplers.ddim(predictor(jax.lax.stop_gradient(teacher_of(params)), cond, None))
        z_to = guide(context.keys, guide(context.keys, z, first), second)
        x_target = jax.lax.stop_gradient(target(z, z_to, first, second))
        predicted = predictor(params, cond, fold(context.keys, DROPOUT))(z, first.frm)
        error = losses.error_per_dim(losses.squared_error(x_target, predicted.x), z)
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
    """Return the loss of one-step distillation, ‖x − x̂(z_T)‖²/D (Luhman & Luhman 2021).

    x is the teacher's DDIM sample from z_T. The images of the batch serve only as conditions of an upsampler.

    Args:
        predictor: (params, conditions, dropout keys or None) → Predict.
        teacher_table: The noise levels that the teacher's sampler visits.
        shape: The shape of one example.
        cond_of: (batch, keys) → conditions.
        teacher_of: params → the teacher's params.
    """

    def loss(params: Params, state: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        cond = cond_of(batch, context.keys)
        z = normal_like(context.keys, shape, NOISE)
        guide = samplers.ddim(predictor(jax.lax.stop_gradient(teacher_of(params)), cond, None))
        x, _ = samplers.run(guide, z, context.keys, teacher_table.reverse())
        last = teacher_table.level(jnp.full(len(z), teacher_table.num_levels - 1))
        predicted = predictor(params, cond, fold(context.keys, DROPOUT))(z, last)
        error = losses.error_per_dim(losses.squared_error(jax.lax.stop_gradient(x), predicted.x), z)
        return error, {"t": jnp.ones_like(error), "error": error}

    return loss


def _draw(context: Context, count: int) -> Array:
    """Draw one number per example, int [b] in 0 … count − 1."""
    draw: Any = lambda key: jax.random.randint(key, (), 0, count)
    return jax.vmap(draw)(fold(context.keys, LEVEL))
