"""Classifier-free guidance on ImageNet 128 × 128 (Ho & Salimans 2022, arXiv:2207.12598, table 2).

    python -m vdm_jax.main --config=configs/cfg_imagenet128.py --workdir=runs/cfg128 --config.data.path=FILE.npz

FID by w (see `cfg_imagenet64`) and steps T, and IS at T = 256, quoted:

| w | 0 | .1 | .2 | .3 | .4 | .5 | 1 | 4 |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| T = 128 | 8.11 | 5.31 | 3.70 | 3.04 | 3.02 | 3.43 | 7.88 | 21.55 |
| T = 256 | 7.27 | 4.53 | 3.03 | **2.43** | 2.49 | 2.98 | 7.86 | 21.53 |
| T = 1024 | 7.22 | 4.50 | 3.00 | **2.43** | 2.48 | 2.96 | 7.80 | 21.45 |
| IS | 82.45 | 106.12 | 132.54 | 158.47 | 183.41 | 207.98 | 297.98 | 421.03 |

2.7M steps; log variance .2 log β + .8 log β̃. Batch and learning rate are recalled from guided diffusion's table. No
named data set is ImageNet at 128 × 128: first create FILE.npz with x_train, y_train, x_test and y_test (labels
0 … 999), and set --config.data.path to it. Ours: none yet.
Cost: 1,793 GFLOP per image and step, 1.2e21 FLOP; at an assumed 300 TFLOP/s, 48 days of one accelerator.
Slices: not yet planned.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.guidance import CFG_VARIANTS, cfg_images

VARIANTS = {**CFG_VARIANTS, "T128": {"sampling.num_steps": 128}, "T1024": {"sampling.num_steps": 1024}}


def get_config(variant: str = "") -> ConfigDict:
    config = cfg_images("npz", 128)
    config.model.width = 256
    config.model.heads = 4
    config.data.batch_size = 256
    config.optimizer.learning_rate = 1e-4
    config.training.num_steps = 2_700_000
    config.sampling.variance_mix = 0.2
    config.sampling.guidance = (0.3,)
    return with_variant(config, variant, VARIANTS)
