"""Rules for methods in continuous time: VDM, score SDEs, and NCSN."""

from __future__ import annotations

from vdm_jax.fields import Given, demand


def check_vdm(given: Given) -> None:
    """Check that the loss of a VDM can train its noise schedule."""
    learned = given["schedule.kind"].startswith("learned")
    demand(
        given["training.weighting"] == "vlb" or not learned,
        "config.training.weighting='simple' is not a bound, so it cannot train a schedule; "
        "set config.schedule.kind to 'linear' or 'cosine'",
    )
    demand(
        not given.get("schedule.minimise_variance", False) or given["training.num_timesteps"] == 0,
        "config.schedule.minimise_variance needs config.training.num_timesteps=0: "
        "at finite T the bound depends on the path",
    )


def check_sde(given: Given) -> None:
    """Check the prediction, the levels of training, and the times of a score SDE."""
    demand(
        given.get("model.family") != "ncsnpp"
        or given["schedule.kind"] != "ve_sde"
        or given["model.prediction"] == "eps",
        f"config.model.prediction={given['model.prediction']!r}: NCSN++ with the VE SDE predicts a score; "
        "set it to 'eps'",
    )
    if given["method"] == "sde":
        _check_ncsn(given)
    demand(
        given["training.times"] != "importance" or given.get("training.weighting", "vlb") == "vlb",
        "config.training.times='importance' draws t in proportion to the weights of config.training.weighting='vlb'; "
        "with 'simple' all weights are equal: set times to 'stratified'",
    )


def check_dequantiser(given: Given) -> None:
    """Check that the data are discrete, and the rules of a score SDE."""
    demand(
        given["data.vocabulary"] > 0,
        "config.method='dequantiser' models the position of a value within its bin, and config.data.vocabulary=0 is "
        "for continuous data, whose density needs no dequantization; choose discrete data",
    )
    check_sde(given)


def _check_ncsn(given: Given) -> None:
    """Check a network that is trained on a finite number of noise levels, as in NCSN, instead of continuous times."""
    levels, kind, indexed = given["training.num_timesteps"], given["schedule.kind"], given["model.told"] == "index"
    demand(
        levels == 0 or (given["training.weighting"] == "simple" and (kind == "ve_sde" or indexed)),
        f"config.training.num_timesteps={levels} trains on the noise levels of NCSN: set "
        "config.schedule.kind='ve_sde' and config.training.weighting='simple', or num_timesteps=0",
    )
    demand(
        levels != 1 and (given["sampling.sampler"] != "langevin" or given["sampling.num_steps"] > 1),
        "NCSN has a first and a last noise level: config.training.num_timesteps must be 2 or more, and so must "
        "config.sampling.num_steps with config.sampling.sampler='langevin'",
    )
    if indexed:
        _check_indexed(given)


def _check_indexed(given: Given) -> None:
    """Check a network whose time input is the index of a noise level."""
    levels, kind = given["training.num_timesteps"], given["schedule.kind"]
    demand(
        levels > 1,
        f"config.model.told='index' needs the noise levels of training, and config.training.num_timesteps={levels} "
        "has no indices; set it to their number, such as 1000 for score_sde's discrete checkpoints",
    )
    demand(
        given["model.network"] in ("multiscale", "refinenet"),
        "config.model.told='index' is for config.model.network='multiscale' or 'refinenet', not "
        f"{given['model.network']!r}, whose time input is t",
    )
    demand(
        kind != "sub_vp_sde",
        "config.model.told='index' uses the levels of NCSN or DDPM, and config.schedule.kind='sub_vp_sde' has neither; "
        "set it to 've_sde' or 'vp_sde'",
    )
    largest = given.get("schedule.beta_max", 0.0)
    demand(
        kind != "vp_sde" or levels > largest,
        f"config.training.num_timesteps={levels} levels of DDPM must be more than "
        f"config.schedule.beta_max={largest:g}: the last beta is beta_max/num_timesteps and must be below 1",
    )
    least = given["schedule.t_min"]
    demand(
        kind != "ve_sde" or 2 * least * (levels - 1) < 1,
        f"config.schedule.t_min={least:g} gives two of the {levels} levels of config.model.told='index' "
        f"the same index; set it below {0.5 / max(levels - 1, 1):.1g}",
    )
    uses_flow = given["evaluation.estimator"] == "ode" or given["sampling.sampler"] == "adaptive"
    demand(
        kind != "ve_sde" or not uses_flow,
        "config.model.told='index' with config.schedule.kind='ve_sde' is discontinuous in t, so an adaptive solver "
        "can't be used; set config.evaluation.estimator='vlb' and a config.sampling.sampler with fixed steps",
    )
