"""DDPM (Ho, Jain & Abbeel 2020), DDIM (Song, Meng & Ermon 2021) and Improved DDPM (Nichol & Dhariwal 2021).

Which choices make these papers: a table of β (linear, cosine, or constant σ), ε-prediction, the reverse variance β̃, β
or learned between them, L_simple, L_hybrid or L_vlb with levels drawn uniformly or by importance, a discretized
Gaussian for the last step, and samplers that visit some of the levels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.core import chain as chains
from vdm_jax.core.method import LIKELIHOOD, Batch, Context, Frozen, Method, Params, PerExample, Phase, Terms
from vdm_jax.diffusion import samplers, tables
from vdm_jax.diffusion.process import expand
from vdm_jax.gaussian import discrete, from_config, networks
from vdm_jax.gaussian.discrete import Discrete
from vdm_jax.methods import distill

# Purposes that a key is folded for; each draws its own numbers.
LEVEL, NOISE, DROPOUT, START, PATH = range(5)

TEACHER = "teacher"  # among the params


def betas_of(config: ConfigDict) -> np.ndarray:
    """β of all levels, float64 [T]."""
    section = config.schedule
    named = {"low": "beta_min", "high": "beta_max", "step_variance": "step_variance", "remaining": "remaining"}
    known = {name: section[field] for name, field in named.items() if field in section}
    return tables.betas(section.kind, section.get("num_timesteps", 0), **known)


def build(config: ConfigDict) -> Method:
    """A DDPM from a checked config."""
    made, student = model(config), config.training.get("distill", "none") != "none"
    estimator = f"vlb_T={made.table.num_levels}"
    if made.num_evaluated:
        estimator += f", {made.num_evaluated} levels an image"
    return Method(
        init=made.init,
        init_extra=lambda params: () if student else made.init_history(),
        phases=(Phase("ddpm", ("network",), student_loss(config, made) if student else made.loss),),
        update_extra=(lambda extra, aux: extra) if student else made.update_history,
        conditions=made.conditions,
        sample=chains.sampler(made.chain),
        chain=made.chain,
        denoise=made.denoise,
        schedule=lambda params: tables.Steps(made.table),
        encode=made.encode,
        decode=lambda z, level: made.decode(z / expand(level.alpha, z.ndim)),
        evaluators=() if student else (PerExample(LIKELIHOOD, made.bits_per_dim, estimator),),
        frozen={TEACHER: teacher(config, made)} if student else {},
        pictures=made.uncertainty if made.variance == "learned" else None,
    )


def model(config: ConfigDict) -> Discrete:
    """The diffusion that `build` makes a method of. Parameters: {'network': …}."""
    betas, training = betas_of(config), config.training
    return Discrete(
        **from_config.common(config),
        betas=betas,
        time_input=networks.time_input(config, len(betas)),
        purposes=discrete.Purposes(LEVEL, NOISE, DROPOUT, START, PATH),
        weighting=training.get("weighting", "simple"),
        vlb_weight=training.get("vlb_weight", 0.001),
        times=training.get("times", "stratified"),
        variance=config.model.get("variance", "posterior"),
        cdf=config.model.get("cdf", "exact"),
        clip_evaluation=config.evaluation.get("clip", True),
        num_evaluated=config.evaluation.get("levels", 0),
    )


def teacher(config: ConfigDict, made: Discrete) -> Frozen:
    """The teacher of a student: a DDPM of the same network, which the student starts from."""
    plain = ConfigDict(config.to_dict())
    plain.training.distill = "none"
    return Frozen(
        what="a teacher",
        field="training.teacher",
        path=config.training.get("teacher", ""),
        config=plain,
        init=made.init,
        copied_to="network",
        training_only=True,
    )


def student_loss(config: ConfigDict, made: Discrete) -> Callable[[Params, Any, Batch, Context], tuple[Array, Terms]]:
    """What a student minimizes."""
    section = config.training

    def predictor(params: Params, cond: Any, keys: Array | None) -> samplers.Predict:
        return samplers.predictor(made.denoise(params, keys), made.split, cond)

    teaching = lambda params: params[TEACHER]
    if section.distill == "progressive":
        table = made.spaced(f"even{2 * section.student_steps}")
        return distill.progressive_loss(predictor, table, made.encode, made.cond_of, teaching)
    return distill.one_step_loss(
        predictor, made.spaced(f"even{section.teacher_steps}"), made.shape, made.cond_of, teaching
    )
