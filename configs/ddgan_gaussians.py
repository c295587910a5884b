"""Denoising Diffusion GAN on 25 Gaussians (Xiao, Kreis & Vahdat 2022, figure 6): four steps cover all modes.

    python -m vdm_jax.main --config=configs/ddgan_gaussians.py --workdir=runs/gaussians

Generator and discriminator are perceptrons with three layers of 512 units, trained for 50,000 steps of batch 512. The
sizes are recalled, because the code for this figure was never released. Conditioning by concatenation, the latent's 2
numbers, the rates and R1 at every step are ours. Numbers: `experiments/ddgan/gaussians25.py`. Hours on two cores.

Variants: `gan` (one step without R1, a vanilla GAN), `gan_r1` (one step), `direct`, `noise`, `no_latent`, `augmented`,
`T1` `T2` `T4` `T8`; `mini` (minutes), `smoke` (seconds). They combine: `no_latent,mini`.
Cost: 16 MFLOP per point and step, 4.1e14 FLOP.
Slices: not yet planned.
"""

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import base, with_variant
from vdm_jax.presets.gan import DDGAN_ABLATIONS, ddgan

VARIANTS: dict[str, dict[str, Any]] = {
    **DDGAN_ABLATIONS,
    "gan": {**DDGAN_ABLATIONS["T1"], "training.r1_every": 0},
    "gan_r1": DDGAN_ABLATIONS["T1"],
    "mini": {
        "model.width": 128,
        "data.batch_size": 256,
        "training.num_steps": 20_000,
        "optimizer.learning_rate": 1e-3,
        "optimizer.discriminator_learning_rate": 1e-3,
    },
    "smoke": {
        "model.width": 16,
        "data.batch_size": 32,
        "training.num_steps": 20,
        "training.steps_per_call": 5,
        "training.log_every": 10,
        "sampling.num_images": 200,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    config = ddgan(base(), "mlp")
    config.data.name = "gaussians25"
    config.data.shape = (2,)
    config.data.vocabulary = 0
    config.data.batch_size = 512
    config.model.width = 512
    config.model.depth = 3
    config.model.latent = 2
    config.training.num_steps = 50_000
    config.training.r1 = 0.02
    config.training.r1_every = 1
    config.training.steps_per_call = 50
    config.training.log_every = 1000
    config.training.checkpoint_every = 5000
    config.optimizer.learning_rate = 5e-4
    config.optimizer.discriminator_learning_rate = 5e-4
    config.optimizer.ema = 0.999
    config.sampling.num_images = 10_000
    config.sampling.batch_size = 10_000
    return with_variant(config, variant, VARIANTS)
