"""A small Improved DDPM on digits that trains in minutes: the config of `--mini` rows of the DDPM family."""

from ml_collections import ConfigDict

from vdm_jax.config import base, with_variant

LEVELS = 17


def get_config(variant: str = "") -> ConfigDict:
    config = base()
    config.method = "ddpm"
    config.data.name = "digits"
    config.data.shape = (8, 8, 1)
    config.data.vocabulary = LEVELS
    config.data.batch_size = 64
    config.model.network = "multiscale"
    config.model.width = 32
    config.model.depth = 1
    config.model.multipliers = (1.0, 2.0)
    config.model.attention_at = (4,)
    config.model.heads = 2
    config.model.groups = 8
    config.model.variance = "learned"
    config.schedule.kind = "ddpm_cosine"
    config.schedule.num_timesteps = 1000
    config.training.weighting = "hybrid"
    config.training.num_steps = 1500
    config.training.log_every = 100
    config.training.checkpoint_every = 1500
    config.training.keep = 1
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    config.optimizer.b2 = 0.999
    config.optimizer.decay = "cosine"
    config.optimizer.ema = 0.99
    config.sampling.num_steps = 100
    config.sampling.clip = True
    config.evaluation.batch_size = 100
    config.evaluation.levels = 64
    config.evaluation.passes = 2
    return with_variant(config, variant, {})
