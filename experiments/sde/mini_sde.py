"""The small VDM's network under a score SDE: the config of `--mini` rows of the score SDEs."""

from ml_collections import ConfigDict

from experiments.vdm import mini
from vdm_jax.config import choose, with_variant


def get_config(variant: str = "") -> ConfigDict:
    parts = {
        "method": "sde",
        "schedule.kind": "vp_sde",
        "training.weighting": "simple",
        "sampling.sampler": "predictor_corrector",
        "evaluation.estimator": "ode",
    }
    config = choose(mini.get_config(), parts)
    config.model.fourier = ()
    config.training.num_steps = 1500
    config.training.checkpoint_every = 1500
    config.optimizer.weight_decay = 0.0
    config.optimizer.ema = 0.99
    config.evaluation.tolerance = 1e-3
    config.evaluation.passes = 1
    config.sampling.num_steps = 200
    return with_variant(config, variant, {})
