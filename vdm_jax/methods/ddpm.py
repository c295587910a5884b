"""DDPM (Ho, Jain & Abbeel 2020), DDIM (Song, Meng & Ermon 2021) and Improved DDPM (Nichol & Dhariwal 2021).

These papers use a table of β (linear, cosine, or constant σ), ε-prediction, and a reverse variance of β̃, β or a learned
interpolation of the two. They minimize L_simple, L_hybrid or L_vlb with noise levels drawn uniformly or by importance,
end with a discretized Gaussian, and sample with all or some of the levels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import common_fields as common
from vdm_jax.core import chain as chains
from vdm_jax.core.method import LIKELIHOOD, Batch, Context, Frozen, Method, Params, PerExample, Phase, Terms
from vdm_jax.diffusion import samplers, tables
from vdm_jax.diffusion.process import expand
from vdm_jax.fields import ANY_TIME, Component, Field
from vdm_jax.gaussian import discrete, from_config, networks
from vdm_jax.gaussian.discrete import Discrete
from vdm_jax.methods import distill

COMPONENTS = (
    Component(
        {
            "model.network": common.network("unet", "mlp", "multiscale", "refinenet"),
            "model.prediction": common.prediction("eps", "x", "v"),
            "model.variance": Field(
                "posterior",
                "variance of a reverse step: beta-tilde, beta, or a learned interpolation",
                ("posterior", "beta", "learned"),
                decisive=True,
            ),
            "model.cdf": Field(
                "exact",
                "normal CDF of the discretized Gaussian; 'tanh' is the approximation of the original code",
                ("exact", "tanh"),
            ),
            "schedule.kind": common.schedule("ddpm_linear", "ddpm_cosine", "constant_sigma"),
            "training.times": common.times("stratified", "independent", "importance"),
            "training.weighting": common.weighting("vlb", "simple", "hybrid"),
            "sampling.sampler": common.sampler("ancestral", "ddim"),
            "sampling.respacing": Field(
                "",
                "noise levels that the sampler visits: '250', 'ddim50', '10,10,3,2,2'; '' for num_steps of them",
                resume=ANY_TIME,
            ),
            "sampling.clip": common.CLIP,
            "evaluation.estimator": common.estimator("vlb"),
            "evaluation.clip": Field(True, "clip the predicted x to [-1, 1] in a DDPM's bound", resume=ANY_TIME),
            "evaluation.levels": common.LEVELS,
        },
        {"method": ("ddpm",)},
    ),
    Component(
        {"training.vlb_weight": Field(0.001, "lambda in L_simple + lambda L_vlb, for 'hybrid'", low=0.0)},
        {"training.weighting": ("hybrid",)},
    ),
    Component(
        {"sampling.variance_mix": common.VARIANCE_MIX},
        {"method": ("ddpm",), "sampling.sampler": ("ancestral",), "model.variance": ("posterior",)},
    ),
)

# The purposes that keys are folded with; each has an independent stream of random numbers.
LEVEL, NOISE, DROPOUT, START, PATH = range(5)

TEACHER = "teacher"  # the key of the teacher's weights in params


def betas_of(config: ConfigDict) -> np.ndarray:
    """Return β of all noise levels, float64 [T]."""
    return tables.betas(**config.schedule.to_dict())


def build(config: ConfigDict) -> Method:
    """Build a DDPM, or a distilled student of one, from a checked config."""
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
    """Build the diffusion that `build` turns into a method. Its parameters are {'network': …}."""
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
    """Return the teacher of a student: a DDPM with the same network, which also initializes the student."""
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
    """Return the distillation loss of `training.distill`."""
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
