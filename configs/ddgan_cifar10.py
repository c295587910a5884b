"""Denoising Diffusion GAN on CIFAR-10 (Xiao, Kreis & Vahdat 2022): FID 3.75 in four network calls (quoted).

    python -m vdm_jax.main --config=configs/ddgan_cifar10.py --workdir=runs/ddgan

| variants | IS | FID | recall | calls | |
| --- | --- | --- | --- | --- | --- |
| (T = 4) | 9.63 | 3.75 | 0.57 | 4 | .21 s for 100 images on a V100 |
| `T1` | 8.93 | 14.6 | 0.19 | 1 | |
| `T2` | 9.80 | 4.08 | 0.54 | 2 | |
| `T8` | 9.43 | 4.36 | 0.56 | 8 | |
| `augmented` | 8.96 | 13.2 | 0.25 | 1 | one-shot, diffusion as augmentation |
| `direct` | 9.10 | 6.03 | 0.53 | 4 | G outputs z_{t−1} |
| `noise` | 8.79 | 8.04 | 0.52 | 4 | G outputs ε |
| `no_latent` | 8.37 | 20.6 | 0.42 | 4 | |

All quoted from tables 1 and 2 of the paper. The original computed its FID on samples saved as JPEG. Ours: none at this
size. The settings are those of the original's command: batch 256, Adam(.5, .9) at 1.6e-4 and 1.25e-4 with a cosine
decay to 1e-5, R1 .02/2 on every 15th step and not multiplied by 15, EMA .9999 of the generator, 1,800 epochs (the
released weights are those after 1,200). Differences: our cosine decays at every step, not every epoch; the EMA decay is
warmed up; the discriminator's groups of four are drawn from all 256 images, in the original from each GPU's 64. The
paper describes the ablations in only two lines; here `noise` takes x̂ = (z − σ ε̂)/α, and neither `noise` nor `direct`
ends with tanh.

Weights: --weights=PATH/netG_1200.pth samples the released generator (--mode=sample).
Parameters: generator 48,432,515, discriminator 12,741,633, counted in the original. Cost: 80 GFLOP per image and
step, 351,000 steps: 7.2e18 FLOP; at an assumed 300 TFLOP/s, 7 hours of one accelerator.

Variants: the rows of the table, and `mini` for two CPU cores. They combine: `T2,mini`.
Slices: not yet planned.
"""

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.gan import DDGAN_ABLATIONS, DDGAN_MINI, ddgan_images

VARIANTS: dict[str, dict[str, Any]] = {**DDGAN_ABLATIONS, "mini": DDGAN_MINI}


def get_config(variant: str = "") -> ConfigDict:
    config = ddgan_images("cifar10", 32)
    config.data.batch_size = 256
    config.model.mapping_depth = 4
    config.training.num_steps = 351_000
    config.training.r1 = 0.02
    config.training.r1_every = 15
    config.optimizer.discriminator_learning_rate = 1.25e-4
    return with_variant(config, variant, VARIANTS)
