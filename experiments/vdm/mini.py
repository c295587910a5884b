"""A small VDM on digits that trains in a minute, with a reduced version of the paper's network and optimizer.

This is the config of `--mini` rows. It is not `configs/digits.py`, whose recipe is tuned for one good number and
departs from the paper's network, which hides, for example, the effect of Fourier features.
"""

import math

from ml_collections import ConfigDict

from vdm_jax.config import base, choose, gamma_0_for, with_variant

LEVELS = 17


def get_config(variant: str = "") -> ConfigDict:
    config = choose(base(), {"optimizer.decay": "cosine"})
    config.data.name = "digits"
    config.data.shape = (8, 8, 1)
    config.data.vocabulary = LEVELS
    config.data.batch_size = 64
    config.model.width = 32
    config.model.depth = 2
    config.model.groups = 8
    config.model.unroll = 8
    config.model.fourier = (math.log2(LEVELS) - 1, math.log2(LEVELS))
    config.schedule.gamma_0 = gamma_0_for(LEVELS)
    config.training.num_steps = 400
    config.training.log_every = 100
    config.training.checkpoint_every = 400
    config.training.keep = 1
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 50
    config.optimizer.ema = 0.98
    config.evaluation.batch_size = 100
    return with_variant(config, variant, {})
