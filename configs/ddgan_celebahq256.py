"""Denoising Diffusion GAN on CelebA-HQ 256 × 256 (Xiao, Kreis & Vahdat 2022): FID 7.64 in two network calls (quoted).

    python -m vdm_jax.main --config=configs/ddgan_celebahq256.py --workdir=runs/faces --config.data.path=PATH/OF/IMAGES

data.path is a folder of 256 × 256 images (data set `folder`); the data set is not downloaded. Ours: none.
Settings of the original's command: T = 2, batch 32, 2e-4 and 1e-4, R1 2/2 on every tenth step, EMA .9999, 800 epochs of
27,000 images (recalled). The released weights are those after 550 epochs: --weights=PATH/netG_550.pth. For the
differences see ddgan_cifar10.py. Parameters: generator 39,726,979, discriminator 27,737,217, counted in the original.

Variants: `T1` `T4` `T8`, which are not in the paper.
Cost: 1,950 GFLOP per image and step, 4.2e19 FLOP; at an assumed 300 TFLOP/s, 39 hours of one accelerator.
Slices: not yet planned.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.gan import DDGAN_ABLATIONS, ddgan_large

VARIANTS = {name: DDGAN_ABLATIONS[name] for name in ("T1", "T2", "T4", "T8")}


def get_config(variant: str = "") -> ConfigDict:
    config = with_variant(ddgan_large("folder"), "T2", VARIANTS)
    config.data.batch_size = 32
    config.training.num_steps = 674_400
    config.training.r1 = 2.0
    config.optimizer.learning_rate = 2e-4
    return with_variant(config, variant, VARIANTS)
