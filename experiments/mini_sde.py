"""A small score SDE on digits that trains in minutes: the config of `--mini` rows of the score SDEs."""

from ml_collections import ConfigDict

from vdm_jax.config import base, with_variant

LEVELS = 17


def get_config(variant: str = "") -> ConfigDict:
    config = base()
    config.method = "sde"
    config.data.name = "digits"
    config.data.shape = (8, 8, 1)
    config.data.vocabulary = LEVELS
    config.data.batch_size = 64
    config.model.width = 32
    config.model.depth = 2
    config.model.groups = 8
    config.model.unroll = 8
    config.model.fourier = ()
    config.schedule.kind = "vp_sde"
    config.training.weighting = "simple"
    config.training.num_steps = 1500
    config.training.log_every = 100
    config.training.checkpoint_every = 1500
    config.training.keep = 1
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 0.0
    config.optimizer.decay = "cosine"
    config.optimizer.ema = 0.99
    config.evaluation.estimator = "ode"
    config.evaluation.tolerance = 1e-3
    config.evaluation.passes = 1
    config.evaluation.batch_size = 100
    config.sampling.sampler = "predictor_corrector"
    config.sampling.num_steps = 200
    return with_variant(config, variant, {})
