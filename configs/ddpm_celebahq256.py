"""DDPM on CelebA-HQ 256 × 256 (Ho, Jain & Abbeel 2020). The paper shows samples and has no table for it.

    python -m vdm_jax.main --config=configs/ddpm_celebahq256.py --workdir=runs/faces --config.data.path=PATH/OF/IMAGES

data.path is a folder of 256 × 256 images (data set `folder`); the data set is not downloaded. Ours: none.
Settings of the original code: T = 1000, linear β, six resolutions, attention at 16, batch 64, Adam 2e-5, no dropout,
EMA .9999, flips; 500,000 steps (recalled).

Variants: `ddim50`, `fast50`, which sample the weights of the base config.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.ddpm import DDPM_SAMPLERS, ddpm_images

VARIANTS = DDPM_SAMPLERS


def get_config(variant: str = "") -> ConfigDict:
    config = ddpm_images("folder", 256)
    config.data.batch_size = 64
    config.model.multipliers = (1.0, 1.0, 2.0, 2.0, 4.0, 4.0)
    config.optimizer.learning_rate = 2e-5
    config.training.num_steps = 500_000
    return with_variant(config, variant, VARIANTS)
