"""Denoising Diffusion GAN on StackedMNIST (Xiao, Kreis & Vahdat 2022, table 3): 1,000 modes, KL .071 (quoted).

    python -m vdm_jax.main --config=configs/ddgan_stackedmnist.py --workdir=runs/stacked --config.data.path=MNIST

data.path is that of `mnist`. In the paper's table, StyleGAN2 has 940 modes and KL .424 (quoted). Ours: none at this
size. Modes and KL depend on the number of samples N: the expected KL of a perfect sampler is 999/(2 N), .019 at 26,000.
The original's command, networks and metric for this data set were never released, only the data set and the name of the
discriminator. So the settings are those of CIFAR-10 without flips, and other differences are our choices.

Variants: `gan` (one step, no R1) and `no_latent`; `mini`, averages of 2 × 2 pixels and small networks for two CPU
cores. They combine: `gan,mini`. `experiments/stacked_mnist.py` has the results.
Cost: 77 GFLOP per image and step, 3.0e18 FLOP; at an assumed 300 TFLOP/s, 3 hours of one accelerator.
Slices: not yet planned.
"""

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.gan import DDGAN_ABLATIONS, STACKED_MINI, ddgan_images

VARIANTS: dict[str, dict[str, Any]] = {
    "gan": {**DDGAN_ABLATIONS["T1"], "training.r1_every": 0},
    "no_latent": DDGAN_ABLATIONS["no_latent"],
    "mini": STACKED_MINI,
}


def get_config(variant: str = "") -> ConfigDict:
    config = ddgan_images("stacked_mnist", 32)
    config.data.augment = ()
    config.data.batch_size = 256
    config.model.mapping_depth = 4
    config.training.num_steps = 150_000
    config.training.r1 = 0.02
    config.training.r1_every = 15
    config.optimizer.discriminator_learning_rate = 1.25e-4
    return with_variant(config, variant, VARIANTS)
