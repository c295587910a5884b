"""What the fields of a score SDE demand of each other."""

from __future__ import annotations

from ml_collections import ConfigDict

from vdm_jax.errors import UserError


def check(config: ConfigDict) -> None:
    """Raise UserError for settings that make no score SDE; every field by itself is legal."""
    schedule, training, sampling = config.schedule, config.training, config.sampling

    def demand(holds: bool, sentence: str) -> None:
        if not holds:
            raise UserError(sentence)

    demand(
        training.weighting in ("simple", "vlb"),
        f"config.training.weighting={training.weighting!r} needs a learned variance; an SDE has 'simple' and 'vlb'",
    )
    demand(
        training.times != "importance" or training.weighting == "vlb",
        "config.training.times='importance' draws t in proportion to the weights of config.training.weighting='vlb'; "
        "with 'simple' all weights are equal: set times to 'stratified'",
    )
    demand(
        training.num_timesteps == 0 or (schedule.kind == "ve_sde" and training.weighting == "simple"),
        f"config.training.num_timesteps={training.num_timesteps} trains the levels of NCSN: set "
        "config.schedule.kind='ve_sde' and config.training.weighting='simple', or num_timesteps=0",
    )
    demand(
        training.num_timesteps != 1 and (sampling.sampler != "langevin" or sampling.num_steps > 1),
        "NCSN has a first and a last level: config.training.num_timesteps must be 2 or more, and so must "
        "config.sampling.num_steps under config.sampling.sampler='langevin'",
    )
    demand(
        config.evaluation.num_timesteps == 0,
        f"config.evaluation.num_timesteps={config.evaluation.num_timesteps}: the bound of an SDE is in continuous "
        "time; set it to 0",
    )
    demand(not sampling.respacing, "config.sampling.respacing is for tables; an SDE takes config.sampling.num_steps")
    demand(not sampling.draw, "config.sampling.draw needs a decoder p(x|z_0); an SDE has none, set it to False")
