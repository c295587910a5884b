"""DDPM on CIFAR-10 (Ho, Jain & Abbeel 2020): FID 3.17 and ≤ 3.75 bits/dim for L_simple (quoted).

    python -m vdm_jax.main --config=configs/ddpm_cifar10.py --workdir=runs/ddpm_cifar10

Paper, for the model trained with L_simple and variance σ² = β: FID 3.17, test bits/dim 3.75 (recalled); 3.70 bits/dim
is that of a model trained on the true bound (variant `true_bound`). DDIM with 50 steps and the same weights: FID 4.67;
FastDDPM with 50 steps: 3.41 (both recalled, unverified). Ours: none at this size yet.
Settings: linear β, T = 1000, 35,746,307 parameters, batch 128, Adam 2e-4, 5,000 warm-up steps, gradient clipping at
global norm 1, dropout .1, EMA .9999, flips, 800,000 steps (from the original code; the number of steps is recalled).

Variants: `true_bound`; `ddim50` and `fast50`, which sample the base config's weights at every 20th timestep (DDIM's
table took quadratically spaced timesteps, FastDDPM its own); `mini` for two CPU cores.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.ddpm import DDPM_MINI, DDPM_SAMPLERS, ddpm_images

VARIANTS = {
    "true_bound": {"training.weighting": "vlb"},
    "mini": DDPM_MINI,
    **DDPM_SAMPLERS,
}


def get_config(variant: str = "") -> ConfigDict:
    config = ddpm_images("cifar10", 32)
    config.model.multipliers = (1.0, 2.0, 2.0, 2.0)
    config.model.dropout = 0.1
    config.optimizer.learning_rate = 2e-4
    config.training.num_steps = 800_000
    return with_variant(config, variant, VARIANTS)
