"""Methods in continuous time: VDM, score SDEs, NCSN."""

from __future__ import annotations

from vdm_jax.consistency.demand import Given, demand


def check_vdm(given: Given) -> None:
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


def check_sde(given: Given) -> None:
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


def check_dequantiser(given: Given) -> None:
    demand(
        given["data.vocabulary"] > 0,
        "config.method='dequantiser' says where in its bin a level lies, and config.data.vocabulary=0 has no levels; "
        "a density of continuous data needs none",
    )
    check_sde(given)


def _check_ncsn(given: Given) -> None:
    """Levels that a network was trained on, instead of all times."""
    levels, kind, indexed = given["training.num_timesteps"], given["schedule.kind"], given["model.told"] == "index"
    demand(
        levels == 0 or (given["training.weighting"] == "simple" and (kind == "ve_sde" or indexed)),
        f"config.training.num_timesteps={levels} trains the levels of NCSN: set "
        "config.schedule.kind='ve_sde' and config.training.weighting='simple', or num_timesteps=0",
    )
    demand(
        levels != 1 and (given["sampling.sampler"] != "langevin" or given["sampling.num_steps"] > 1),
        "NCSN has a first and a last level: config.training.num_timesteps must be 2 or more, and so must "
        "config.sampling.num_steps under config.sampling.sampler='langevin'",
    )
    if indexed:
        _check_indexed(given)


def _check_indexed(given: Given) -> None:
    levels, kind = given["training.num_timesteps"], given["schedule.kind"]
    demand(
        levels > 1,
        f"config.model.told='index' numbers the levels of training, and config.training.num_timesteps={levels} has "
        "none; set it to theirs, as 1000 of score_sde's discrete checkpoints",
    )
    demand(
        given["model.network"] in ("multiscale", "refinenet"),
        "config.model.told='index' is for config.model.network='multiscale' or 'refinenet', not "
        f"{given['model.network']!r}, which is told t",
    )
    demand(
        kind != "sub_vp_sde",
        "config.model.told='index' has the levels of NCSN or DDPM, and config.schedule.kind='sub_vp_sde' has neither; "
        "set it to 've_sde' or 'vp_sde'",
    )
    demand(
        kind != "vp_sde" or levels > given["schedule.beta_max"],
        f"config.training.num_timesteps={levels} levels of DDPM must be more than "
        f"config.schedule.beta_max={given['schedule.beta_max']:g}: the last beta is one over the other",
    )
    least = given["schedule.t_min"]
    demand(
        kind != "ve_sde" or 2 * least * (levels - 1) < 1,
        f"config.schedule.t_min={least:g} gives two of the {levels} levels of config.model.told='index' one number; "
        f"set it below {0.5 / max(levels - 1, 1):.1g}",
    )
    wants_flow = given["evaluation.estimator"] == "ode" or given["sampling.sampler"] == "adaptive"
    demand(
        kind != "ve_sde" or not wants_flow,
        "config.model.told='index' under config.schedule.kind='ve_sde' jumps from level to level, and no solver can "
        "choose its steps there; set config.evaluation.estimator='vlb' and a config.sampling.sampler with steps",
    )
