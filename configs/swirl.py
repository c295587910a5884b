"""VDM on the swirl: two-dimensional points and an MLP, the smallest complete example.

    python -m vdm_jax.main --config=configs/swirl.py --workdir=runs/swirl

The data are continuous: p(x|z_0) is a Gaussian of variance e^{γ(0)}, and bits/dim is that of a density, so it may be
negative and is not comparable to that of images. It is not in the paper. Training takes minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from vdm_jax.config import base, choose, with_variant

VARIANTS = {"smoke": {"training.num_steps": 20, "sampling.num_steps": 10, "evaluation.passes": 1}}


def get_config(variant: str = "") -> ConfigDict:
    parts = {"model.network": "mlp", "schedule.kind": "learned_monotone", "optimizer.decay": "cosine"}
    config = choose(base(), parts)
    config.data.name = "swirl"
    config.data.shape = (2,)
    config.data.vocabulary = 0
    config.data.batch_size = 512
    config.model.width = 128
    config.model.depth = 3
    config.schedule.minimise_variance = True
    config.schedule.gamma_0 = -8.0
    config.schedule.features = 64
    config.training.num_steps = 2000
    config.training.log_every = 200
    config.training.checkpoint_every = 1000
    config.optimizer.learning_rate = 2e-3
    config.optimizer.ema = 0.995
    config.evaluation.passes = 32
    config.evaluation.batch_size = 512
    config.sampling.num_images = 2000
    config.sampling.batch_size = 2000
    config.sampling.num_steps = 250
    return with_variant(config, variant, VARIANTS)
