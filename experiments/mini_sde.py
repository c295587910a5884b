"""The small VDM's network under a score SDE: the config of `--mini` rows of the score SDEs."""

from ml_collections import ConfigDict

from experiments import mini
from vdm_jax.config import with_variant


def get_config(variant: str = "") -> ConfigDict:
    config = mini.get_config()
    config.method = "sde"
    config.model.fourier = ()
    config.schedule.kind = "vp_sde"
    config.schedule.gamma_0 = -13.3  # of VDM's schedules alone
    config.training.weighting = "simple"
    config.training.num_steps = 1500
    config.training.checkpoint_every = 1500
    config.optimizer.weight_decay = 0.0
    config.optimizer.ema = 0.99
    config.evaluation.estimator = "ode"
    config.evaluation.tolerance = 1e-3
    config.evaluation.passes = 1
    config.sampling.sampler = "predictor_corrector"
    config.sampling.num_steps = 200
    return with_variant(config, variant, {})
