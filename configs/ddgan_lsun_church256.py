"""Denoising Diffusion GAN on LSUN Church 256 × 256 (Xiao, Kreis & Vahdat 2022): FID 5.25 in four calls (quoted).

    python -m vdm_jax.main --config=configs/ddgan_lsun_church256.py --workdir=runs/church --config.data.path=IMAGES

data.path is a folder of 256 × 256 images (data set `folder`), resized and center-cropped; the original uses the first
120,000. The data set is not downloaded. Ours: none. DDPM has FID 7.89 (quoted from the same table).
Settings of the original's command: T = 4, batch 64, 1.6e-4 and 1e-4, R1 1/2 on every tenth step, EMA .999, 500 epochs.
For the differences see ddgan_cifar10.py. Parameters: generator 39,726,979, discriminator 27,737,217, counted in the
original.

Variants: `T1` `T2` `T8`, which are not in the paper.
Cost: 1,950 GFLOP per image and step, 1.2e20 FLOP; at an assumed 300 TFLOP/s, 5 days of one accelerator.
Slices: not yet planned.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.gan import DDGAN_ABLATIONS, ddgan_large

VARIANTS = {name: DDGAN_ABLATIONS[name] for name in ("T1", "T2", "T4", "T8")}


def get_config(variant: str = "") -> ConfigDict:
    config = ddgan_large("folder")
    config.data.batch_size = 64
    config.training.num_steps = 937_500
    config.training.r1 = 1.0
    config.optimizer.ema = 0.999
    return with_variant(config, variant, VARIANTS)
