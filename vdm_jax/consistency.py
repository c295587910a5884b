"""What one field of a config demands of another: a sentence for every combination that makes no sense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vdm_jax.errors import UserError

Given = Mapping[str, Any]

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
        "training.weighting": ("vlb", "simple"),
        "training.distill": ("none",),
        "training.times": ("stratified", "independent"),
        "sampling.sampler": ("ancestral", "ddim", "euler", "heun"),
        "evaluation.levels": (0,),
    },
    "ddpm": {
        "schedule.kind": TABLES,
        "model.prediction": SCORES,
        "model.family": SCORE_NETWORKS,
        "model.residual": ("z",),
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
        "training.weighting": ("simple",),
        "training.times": ("stratified", "independent"),
        "training.distill": ("none",),
        "training.num_timesteps": (0,),
        "evaluation.estimator": ("vlb",),
        "evaluation.num_timesteps": (0,),
    },
    "ddgan": {
        "schedule.kind": ("ddgan_vp",),
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


def demand(holds: bool, sentence: str) -> None:
    """Raise UserError with the sentence if it does not hold."""
    if not holds:
        raise UserError(sentence)


def check(given: Given) -> None:
    """Raise UserError naming the fields; given: 'section.field' → legal value."""
    method = given["method"]
    for name, values in LEGAL[method].items():
        demand(
            given[name] in values,
            f"config.{name}={given[name]!r} does not go with config.method={method!r}; "
            f"it takes {' or '.join(map(repr, values))}",
        )
    _check_network(given)
    _check_classes(given)
    if given["model.network"] == "multiscale":
        _check_multiscale(given)
    checks = {
        "vdm": _check_vdm,
        "ddpm": _check_ddpm,
        "sde": _check_sde,
        "classifier": _check_classifier,
        "ddgan": _check_ddgan,
    }
    checks[method](given)


def _check_network(given: Given) -> None:
    width, groups, network = given["model.width"], given["model.groups"], given["model.network"]
    images, shape = network != "mlp", tuple(given["data.shape"])
    demand(not images or width % 2 == 0, f"config.model.width={width} must be even; try {width + 1}")
    demand(
        not images or width % groups == 0,
        f"config.model.groups={groups} must divide config.model.width={width}; "
        f"try config.model.groups={max(g for g in range(1, min(width, groups) + 1) if width % g == 0)}",
    )
    demand(
        not images or groups < width,
        f"config.model.groups={groups} must be less than config.model.width={width}: the norm of a single channel "
        f"takes away what the network is told of t; try config.model.groups={width // 2}",
    )
    demand(
        given["model.residual"] == "z" or (network == "unet" and given["model.prediction"] == "eps"),
        "config.model.residual='pixel' is an estimate of eps beside the U-Net's; "
        "set config.model.prediction='eps' and config.model.network='unet'",
    )
    demand(
        given["model.initial"] == "original" or network == "unet",
        "config.model.initial='structured' is for config.model.network='unet'",
    )
    demand(
        len(shape) == (3 if images else 1),
        f"config.data.shape={shape} does not suit config.model.network={network!r}: "
        "'unet' and 'multiscale' take (height, width, channels), 'mlp' (dimensions,)",
    )
    demand(
        given["data.vocabulary"] != 1,
        "config.data.vocabulary=1 has one level and nothing to learn; 0 is for continuous data",
    )
    demand(
        given["model.variance"] != "learned" or network == "multiscale",
        f"config.model.variance='learned' needs a network with a variance head, which {network!r} has not; "
        "set config.model.network='multiscale'",
    )


def _check_classes(given: Given) -> None:
    classes, null, network = given["model.num_classes"], given["model.null_class"], given["model.network"]
    demand(
        not null or classes > 0,
        "config.model.null_class=True stands beside the labels, of which config.model.num_classes=0 has none; set both",
    )
    demand(
        null == (given["training.label_dropout"] > 0),
        f"config.training.label_dropout={given['training.label_dropout']:g} and config.model.null_class={null} "
        "go together: dropped labels become the null class, which nothing else trains; set both, or 0.0 and False",
    )
    demand(
        classes == 0 or network == "multiscale" or not given["data.augment"],
        f"config.data.augment={tuple(given['data.augment'])} is told to config.model.network={network!r} in the place "
        "of the label; set config.data.augment=() or config.model.num_classes=0",
    )
    label, highest = given["sampling.label"], classes if null else classes - 1
    demand(
        label <= highest or (classes == 0 and bool(given["sampling.classifier"])),
        f"config.sampling.label={label} is none of the labels of a model with config.model.num_classes={classes}"
        + (
            f"; they are 0 to {classes - 1}" + (f", and {classes} for the null class" if null else "")
            if classes
            else ""
        ),
    )
    demand(
        null or not any(given["sampling.guidance"]),
        f"config.sampling.guidance={tuple(given['sampling.guidance'])} needs a model that was also trained without "
        "labels (config.model.null_class), which this one was not; set it to (0.0,)",
    )
    demand(bool(given["sampling.guidance"]), "config.sampling.guidance=() has no w; (0.0,) is no guidance")
    ends = tuple(given["sampling.guidance_interval"])
    demand(
        len(ends) == 2 and ends[0] < ends[1],
        f"config.sampling.guidance_interval={ends} must be two gammas, the lower one first",
    )
    demand(
        not given["sampling.percentile"] or given["sampling.clip"],
        f"config.sampling.percentile={given['sampling.percentile']:g} says how config.sampling.clip=True clips; "
        "set that too",
    )
    demand(
        not given["sampling.variance_mix"]
        or (given["sampling.sampler"] == "ancestral" and given["model.variance"] == "posterior"),
        f"config.sampling.variance_mix={given['sampling.variance_mix']:g} is for config.sampling.sampler='ancestral' "
        "and config.model.variance='posterior'",
    )


def _check_multiscale(given: Given) -> None:
    height, width, _ = given["data.shape"]
    demand(bool(given["model.multipliers"]), "config.model.multipliers=() has no resolution; try (1.0, 2.0)")
    halvings = len(given["model.multipliers"]) - 1
    demand(
        height == width and height % 2**halvings == 0,
        f"config.data.shape={tuple(given['data.shape'])} cannot be halved {halvings} times, as the "
        f"{halvings + 1} resolutions of config.model.multipliers={tuple(given['model.multipliers'])} do",
    )
    resolutions = [height >> k for k in range(halvings + 1)]
    for size in given["model.attention_at"]:
        demand(
            size in resolutions,
            f"config.model.attention_at has {size}, but the network's resolutions are "
            f"{', '.join(map(str, resolutions))}",
        )
    for multiplier in given["model.multipliers"]:
        channels = multiplier * given["model.width"]
        demand(
            channels == int(channels)
            and channels % given["model.groups"] == 0
            and channels % given["model.heads"] == 0,
            f"config.model.multipliers has {multiplier:g}, which makes {channels:g} channels of "
            f"config.model.width={given['model.width']}: config.model.groups={given['model.groups']} and "
            f"config.model.heads={given['model.heads']} must divide them",
        )

    _check_family(given)


def _check_family(given: Given) -> None:
    """What the network itself demands, such as the groups of norms that see a level and its skip."""
    from vdm_jax.networks import families  # imports JAX, which the other checks do without

    names = ("width", "depth", "multipliers", "attention_at", "heads", "head_channels", "groups")
    try:
        made = families.settings(given["model.family"], **{name: given[f"model.{name}"] for name in names})
        families.check(made, given["data.shape"])
    except ValueError as error:
        raise UserError(f"config.model.family={given['model.family']!r}: {error}") from error


def _check_vdm(given: Given) -> None:
    learned = given["schedule.kind"].startswith("learned")
    demand(
        given["schedule.gamma_0"] < given["schedule.gamma_1"],
        "config.schedule.gamma_0 must lie below config.schedule.gamma_1: noise grows with t",
    )
    demand(
        given["training.weighting"] == "vlb" or not learned,
        "config.training.weighting='simple' is no bound, so it cannot train a schedule; "
        "set config.schedule.kind to 'linear' or 'cosine'",
    )
    demand(
        not given["schedule.minimise_variance"] or given["schedule.kind"] == "learned_monotone",
        "config.schedule.minimise_variance needs a path to move; set config.schedule.kind='learned_monotone'",
    )
    demand(
        not given["schedule.minimise_variance"] or given["training.num_timesteps"] == 0,
        "config.schedule.minimise_variance needs config.training.num_timesteps=0: "
        "at finite T the bound itself depends on the path",
    )


def _check_betas(given: Given) -> None:
    low, high = given["schedule.beta_min"], given["schedule.beta_max"]
    demand(
        low <= high,
        f"config.schedule.beta_min={low:g} must not exceed config.schedule.beta_max={high:g}: noise grows with t",
    )
    demand(
        high < given["schedule.num_timesteps"],
        f"config.schedule.num_timesteps={given['schedule.num_timesteps']} must exceed "
        f"config.schedule.beta_max={high:g}: the last beta is beta_max over it and must be less than 1",
    )


def _check_table(given: Given) -> int:
    """T of the table of a diffusion."""
    if given["schedule.kind"] == "ddpm_linear":
        _check_betas(given)
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


def _check_classifier(given: Given) -> None:
    _check_table(given)
    classes = given["model.num_classes"]
    demand(classes > 1, f"config.model.num_classes={classes}: a classifier needs the data's classes, two or more")


def _check_ddpm(given: Given) -> None:
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
    name, factor = ("teacher_steps", 1) if kind == "one_step" else ("student_steps", 2)
    demand(
        kind == "none" or factor * given[f"training.{name}"] <= total,
        f"config.training.{name}={given[f'training.{name}']} needs {factor * given[f'training.{name}']} levels, "
        f"and the schedule has {total}",
    )
    steps = 1 if kind == "one_step" else given["training.student_steps"]
    sampled = given["sampling.sampler"], given["sampling.respacing"], given["sampling.num_steps"]
    demand(
        kind == "none" or sampled == ("ddim", f"even{steps}", steps),
        f"config.training.distill={kind!r} trains a student that knows {steps} level{'s'[: steps != 1]} alone; "
        f"set config.sampling.sampler='ddim', config.sampling.respacing='even{steps}' "
        f"and config.sampling.num_steps={steps}",
    )


def num_levels(given: Given) -> int:
    """T of a table."""
    if given["schedule.kind"] == "constant_sigma":
        from vdm_jax.diffusion import tables

        return tables.constant_levels(given["schedule.step_variance"], given["schedule.remaining"])
    return given["schedule.num_timesteps"]


def _check_respacing(given: Given, total: int) -> None:
    from vdm_jax.diffusion import tables  # imports JAX, which the other checks do without

    spacing, steps = given["sampling.respacing"], given["sampling.num_steps"]
    demand(
        bool(spacing) or steps <= total,
        f"config.sampling.num_steps={steps} is more than the {total} levels of the schedule; try {total}",
    )
    try:
        visited = len(tables.spaced(total, spacing or str(steps)))
    except ValueError as error:
        raise UserError(f"config.sampling.respacing={error}") from error
    demand(
        visited == steps,
        f"config.sampling.respacing={spacing!r} visits {visited} levels; set config.sampling.num_steps={visited}",
    )


def _check_sde(given: Given) -> None:
    if given["schedule.kind"] == "ve_sde":
        low, high = given["schedule.sigma_min"], given["schedule.sigma_max"]
        demand(low < high, f"config.schedule.sigma_min={low:g} must lie below config.schedule.sigma_max={high:g}")
    else:
        low, high = given["schedule.beta_min"], given["schedule.beta_max"]
        demand(low <= high, f"config.schedule.beta_min={low:g} must not exceed config.schedule.beta_max={high:g}")
        demand(
            low + high <= 160,
            f"config.schedule.beta_max={high:g} leaves nothing of the data that float32 could hold; try 20",
        )
    demand(
        given["model.family"] != "ncsnpp"
        or given["model.network"] != "multiscale"
        or given["schedule.kind"] != "ve_sde"
        or given["model.prediction"] == "eps",
        f"config.model.prediction={given['model.prediction']!r}: NCSN++ under the VE SDE gives a score; "
        "set it to 'eps'",
    )
    _check_ncsn(given)
    demand(
        given["training.times"] != "importance" or given["training.weighting"] == "vlb",
        "config.training.times='importance' draws t in proportion to the weights of config.training.weighting='vlb'; "
        "with 'simple' all weights are equal: set times to 'stratified'",
    )
    demand(
        given["evaluation.num_timesteps"] == 0,
        f"config.evaluation.num_timesteps={given['evaluation.num_timesteps']}: the bound of an SDE is in continuous "
        "time; set it to 0",
    )
    demand(
        not given["sampling.respacing"],
        "config.sampling.respacing is for tables; an SDE takes config.sampling.num_steps",
    )
    demand(
        not given["sampling.draw"], "config.sampling.draw needs a decoder p(x|z_0); an SDE has none, set it to False"
    )


def _check_ncsn(given: Given) -> None:
    levels = given["training.num_timesteps"]
    demand(
        levels == 0 or (given["schedule.kind"] == "ve_sde" and given["training.weighting"] == "simple"),
        f"config.training.num_timesteps={levels} trains the levels of NCSN: set "
        "config.schedule.kind='ve_sde' and config.training.weighting='simple', or num_timesteps=0",
    )
    demand(
        levels != 1 and (given["sampling.sampler"] != "langevin" or given["sampling.num_steps"] > 1),
        "NCSN has a first and a last level: config.training.num_timesteps must be 2 or more, and so must "
        "config.sampling.num_steps under config.sampling.sampler='langevin'",
    )


def _check_ddgan(given: Given) -> None:
    low, high = given["schedule.beta_min"], given["schedule.beta_max"]
    demand(low <= high, f"config.schedule.beta_min={low:g} must not exceed config.schedule.beta_max={high:g}")
    adversary, trained = given["training.adversary"], given["schedule.num_timesteps"]
    steps = trained if adversary == "pairs" else 1
    demand(trained <= 1000, f"config.schedule.num_timesteps={trained}: a GAN takes few and large steps; try 4")
    demand(
        given["sampling.num_steps"] == steps,
        f"config.sampling.num_steps={given['sampling.num_steps']}, but a generator knows the {steps} "
        f"step{'s'[: steps != 1]} that it is trained for; set it to {steps}",
    )
    demand(
        adversary == "pairs" or given["model.prediction"] == "x",
        "config.training.adversary='augmented' is a one-shot GAN, which gives x; set config.model.prediction='x'",
    )
    if given["model.network"] == "mlp":
        return
    demand(
        given["model.family"] == "ddgan",
        f"config.model.family={given['model.family']!r} is no generator; set it to 'ddgan'",
    )
    _check_discriminator(given)


def _check_discriminator(given: Given) -> None:
    from vdm_jax.networks.discriminator import GROUP, SIZES  # imports JAX, which the other checks do without

    (height, width, _), name = given["data.shape"], given["model.discriminator"]
    factor = SIZES[name].factor
    demand(
        height % factor == 0 and width % factor == 0,
        f"config.model.discriminator={name!r} halves {height} × {width} pixels until they are 1/{factor}; "
        f"config.data.shape must divide by {factor}",
    )
    demand(
        given["model.discriminator_time"] % 2 == 0,
        f"config.model.discriminator_time={given['model.discriminator_time']} must be even, for sines and cosines",
    )
    parts = given["training.accumulate"]
    together = given["data.batch_size"] // parts
    demand(
        together % min(GROUP, max(together, 1)) == 0,
        f"config.data.batch_size={given['data.batch_size']} in {parts} part{'s'[: parts != 1]} is {together} examples, "
        f"which the discriminator's groups of {GROUP} do not divide; "
        f"try config.data.batch_size={-(-together // GROUP) * GROUP * parts}",
    )
