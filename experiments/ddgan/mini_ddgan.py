"""A small Denoising Diffusion GAN on digits that trains in minutes; its generator is about as large as `mini_ddpm`."""

from ml_collections import ConfigDict

from experiments.vdm import mini
from vdm_jax.config import with_variant
from vdm_jax.presets.gan import DDGAN_ABLATIONS, ddgan

VARIANTS = {name: DDGAN_ABLATIONS[name] for name in ("T1", "T2", "T4")}


def get_config(variant: str = "") -> ConfigDict:
    config = ddgan(mini.get_config(), "multiscale")
    config.model.depth = 1
    config.model.multipliers = (1.0, 2.0)
    config.model.attention_at = (4,)
    config.model.latent = 32
    config.model.latent_width = 64
    config.model.mapping_depth = 1
    config.model.discriminator_width = 12
    config.model.discriminator_time = 64
    config.model.unroll = 1
    config.data.batch_size = 32
    config.training.r1 = 0.05
    config.training.r1_every = 10
    config.training.num_steps = 3000
    config.training.checkpoint_every = 3000
    config.optimizer.learning_rate = 1e-4
    # With the learning rate of G, D collapses to 0 within 300 steps.
    config.optimizer.discriminator_learning_rate = 1e-3
    config.optimizer.b2 = 0.9
    config.optimizer.ema = 0.995
    return with_variant(config, variant, VARIANTS)
