"""Improved DDPM on CIFAR-10 (Nichol & Dhariwal 2021, table 2): 2.94 bits/dim with L_vlb (quoted).

    python -m vdm_jax.main --config=configs/iddpm_cifar10.py --workdir=runs/iddpm_cifar10

| variant | bits/dim | FID | |
| --- | --- | --- | --- |
| `linear_1k,simple` | 3.73 | 3.29 | recalled |
| `linear,simple` | 3.37 | 2.90 | recalled |
| `linear` | 3.26 | 3.07 | recalled |
| `simple` | 3.26 | 3.05 | recalled |
| (base: cosine, L_hybrid) | 3.17 | 3.19 | quoted |
| `vlb` | 2.94 | 11.47 | quoted |

The 2.94 bits/dim and the FID of 2.90 are those of two models. T = 4000 except in `linear_1k`; 500,000 steps of batch
128, Adam 1e-4, dropout .3, no flips, EMA .9999; 52,546,438 parameters. Published weights (cifar10_uncond_50M_500K.pt,
the `vlb` one for that variant) load by --weights. Bits/dim are estimated from 64 levels per image in four passes; the
paper's use all 4,000 (`--config.evaluation.levels=0`). Ours: none at this size yet.

Variants combine: `iddpm_cifar10.py:linear,simple`; `steps100` samples with 100 of the levels;
`mini` is for two CPU cores.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.ddpm import DDPM_MINI, IDDPM_VARIANTS, iddpm_images

VARIANTS = {**IDDPM_VARIANTS, "mini": DDPM_MINI}


def get_config(variant: str = "") -> ConfigDict:
    config = iddpm_images("cifar10", 32)
    config.model.dropout = 0.3
    config.training.num_steps = 500_000
    return with_variant(config, variant, VARIANTS)
