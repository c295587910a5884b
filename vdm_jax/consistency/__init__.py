"""What one field of a config demands of another: a sentence for every combination that makes no sense."""

from __future__ import annotations

from typing import Any

from vdm_jax.consistency import continuous, gans, labels, networks, tables
from vdm_jax.consistency.demand import Given, demand
from vdm_jax.consistency.tables import num_levels

__all__ = ["check", "num_levels"]

VDM_SCHEDULES = ("linear", "cosine", "learned_scalar", "learned_monotone")
TABLES = ("ddpm_linear", "ddpm_cosine", "constant_sigma")
SDES = ("vp_sde", "sub_vp_sde", "ve_sde")
SCORES = ("eps", "x", "v")
SCORE_NETWORKS = ("ddpm", "improved", "adm", "ddpmpp", "ncsnpp")
# method → the values that these fields may have with it
LEGAL: dict[str, dict[str, tuple[Any, ...]]] = {
    "vdm": {
        "schedule.kind": VDM_SCHEDULES,
        "model.prediction": SCORES,
        "model.family": SCORE_NETWORKS,
        "model.variance": ("posterior",),
        "model.told": ("time",),
        "training.weighting": ("vlb", "simple"),
        "training.distill": ("none",),
        "training.times": ("stratified", "independent"),
        "sampling.sampler": ("ancestral", "ddim", "euler", "heun", "adaptive"),
        "evaluation.levels": (0,),
    },
    "ddpm": {
        "schedule.kind": TABLES,
        "model.prediction": SCORES,
        "model.family": SCORE_NETWORKS,
        "model.residual": ("z",),
        "model.told": ("time",),
        "sampling.sampler": ("ancestral", "ddim"),
        "evaluation.estimator": ("vlb",),
        "training.num_timesteps": (0,),
        "evaluation.num_timesteps": (0,),
        "sampling.draw": (False,),
    },
    "sde": {
        "schedule.kind": SDES,
        "model.prediction": SCORES,
        "model.family": SCORE_NETWORKS,
        "model.variance": ("posterior",),
        "training.distill": ("none",),
        "training.weighting": ("vlb", "simple"),
        "evaluation.levels": (0,),
    },
    "classifier": {
        "schedule.kind": TABLES,
        "model.network": ("multiscale",),
        "model.family": ("ddpm", "improved", "adm"),
        "model.variance": ("posterior",),
        "model.null_class": (False,),
        "model.told": ("time",),
        "training.weighting": ("simple",),
        "training.times": ("stratified", "independent"),
        "training.distill": ("none",),
        "training.num_timesteps": (0,),
        "evaluation.estimator": ("vlb",),
        "evaluation.num_timesteps": (0,),
    },
    "ddgan": {
        "schedule.kind": ("ddgan_vp",),
        "model.num_classes": (0,),
        "model.told": ("time",),
        "model.dropout": (0.0,),
        "optimizer.name": ("adamw",),
        "model.network": ("multiscale", "mlp"),
        "model.prediction": ("x", "eps", "previous"),
        "model.residual": ("z",),
        "model.variance": ("posterior",),
        "training.distill": ("none",),
        "training.times": ("independent",),
        "training.num_timesteps": (0,),
        "evaluation.num_timesteps": (0,),
        "evaluation.levels": (0,),
        "sampling.sampler": ("ancestral",),
        "sampling.respacing": ("",),
        "sampling.draw": (False,),
        "sampling.clip": (False,),
    },
}


LEGAL["dequantiser"] = {
    **LEGAL["sde"],
    "training.weighting": ("vlb",),
    "training.num_timesteps": (0,),
    "training.label_dropout": (0.0,),
}


def check(given: Given) -> None:
    """Raise UserError naming the fields; given: 'section.field' → legal value."""
    method = given["method"]
    for name, values in LEGAL[method].items():
        demand(
            given[name] in values,
            f"config.{name}={given[name]!r} does not go with config.method={method!r}; "
            f"it takes {' or '.join(map(repr, values))}",
        )
    networks.check_network(given)
    networks.check_low_resolution(given)
    labels.check_classes(given)
    labels.check_crops(given)
    labels.check_guidance(given)
    if given["model.network"] == "multiscale":
        networks.check_multiscale(given)
    if given["model.network"] == "refinenet":
        networks.check_refinenet(given)
    checks = {
        "vdm": continuous.check_vdm,
        "ddpm": tables.check_ddpm,
        "sde": continuous.check_sde,
        "dequantiser": continuous.check_dequantiser,
        "classifier": tables.check_classifier,
        "ddgan": gans.check_ddgan,
    }
    checks[method](given)
