"""Improved DDPM on ImageNet 64 × 64, OLD (Nichol & Dhariwal 2021, table 1): 3.53 bits/dim with L_vlb (quoted).

    python -m vdm_jax.main --config=configs/iddpm_imagenet64.py --workdir=runs/iddpm_imagenet64 --config.data.path=…

| variant | bits/dim | FID | |
| --- | --- | --- | --- |
| `linear_1k,simple` | 3.99 | 32.5 | 200K steps, quoted |
| `linear,simple` | 3.77 | 31.3 | 200K steps, recalled |
| `linear` | 3.66 | 32.2 | 200K steps, recalled |
| `simple` | 3.68 | 27.0 | 200K steps, recalled |
| `short` (cosine, L_hybrid) | 3.62 | 28.0 | 200K steps, quoted |
| `short,vlb` | 3.57 | 56.7 | 200K steps, recalled |
| (base) | 3.57 | 19.2 | 1.5M steps, quoted |
| `vlb` | 3.53 | 40.1 | 1.5M steps, quoted |

All rows except the last two use `short`, 200,000 steps. T = 4000 except in `linear_1k`, batch 128, Adam 1e-4, EMA
.9999, no flips; 121,063,942 parameters. Published weights: imagenet64_uncond_100M_1500K.pt and that of `vlb`. Ours:
none yet.

`cond` is the class-conditional model of table 4 (273,049,350 parameters, 250K steps at batch 2048, sampled in 250
steps): FID 2.92, precision .82, recall .71 (quoted). OLD has no labels, so `cond` uses ImageNet as resized by TFDS; the
paper cropped and resized its own copy, and reports no bits/dim. Published weights: imagenet64_cond_270M_250K.pt.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.ddpm import IDDPM_VARIANTS, iddpm_images

VARIANTS = {
    **IDDPM_VARIANTS,
    "short": {"training.num_steps": 200_000},
    "cond": {
        "data.name": "imagenet64_resized",
        "data.batch_size": 2048,
        "model.num_classes": 1000,
        "model.width": 192,
        "model.rescale_time": False,
        "training.num_steps": 250_000,
        "training.vlb_weight": 1 / 4000,  # the original's loss without rescaling
        "optimizer.learning_rate": 3e-4,
        "sampling.num_steps": 250,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    config = iddpm_images("imagenet64", 64)
    config.model.multipliers = (1.0, 2.0, 3.0, 4.0)
    config.training.num_steps = 1_500_000
    return with_variant(config, variant, VARIANTS)
