"""A small Improved DDPM on digits that trains in minutes: the config of `--mini` rows of the DDPM family."""

from ml_collections import ConfigDict

from experiments.vdm import mini
from vdm_jax.config import choose, with_variant


def get_config(variant: str = "") -> ConfigDict:
    parts = {
        "method": "ddpm",
        "model.network": "multiscale",
        "model.variance": "learned",
        "schedule.kind": "ddpm_cosine",
        "training.weighting": "hybrid",
        "sampling.clip": True,
    }
    config = choose(mini.get_config(), parts)
    config.model.depth = 1
    config.model.multipliers = (1.0, 2.0)
    config.model.attention_at = (4,)
    config.model.heads = 2
    config.model.unroll = 1
    config.schedule.num_timesteps = 1000
    config.training.num_steps = 1500
    config.training.checkpoint_every = 1500
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.0
    config.optimizer.b2 = 0.999
    config.optimizer.ema = 0.99
    config.sampling.num_steps = 100
    config.evaluation.levels = 64
    config.evaluation.passes = 2
    return with_variant(config, variant, {})
