"""Classifier-free guidance on ImageNet 64 × 64 (Ho & Salimans 2022, arXiv:2207.12598, table 1).

    python -m vdm_jax.main --config=configs/cfg_imagenet64.py --workdir=runs/cfg_imagenet64 --config.data.path=…

FID (IS) by w, the weight in (1 + w) ε̂_c − w ε̂_∅, at p_uncond = .1, quoted; the scale s of other papers is 1 + w:

| w | 0 | .1 | .2 | .3 | .5 | 1 | 2 | 4 |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| FID | 1.80 | **1.55** | 2.04 | 3.03 | 5.74 | 12.6 | 21.03 | 26.22 |
| IS | 53.71 | 66.11 | 78.91 | 92.8 | 119.3 | 170.1 | 225.5 | 260.2 |

`p20` and `p50` are p_uncond = .2 and .5: FID at w = .1 1.62 and 1.91. λ = log SNR runs from 20 to −20 on the truncated
cosine, ε-prediction, L_simple, 400K steps; ancestral steps whose log variance is .3 log β + .7 log β̃; x̂ is clipped. The
architecture is that of guided diffusion. Batch, learning rate and dropout are recalled from its table, not from this
paper, and so is T = 256. Ours: none yet.
Cost: 630 GFLOP per image and step, 5.2e20 FLOP; at an assumed 300 TFLOP/s, 20 days of one accelerator.
Slices: not yet planned.

To draw samples with a row for each w, use `--mode=sample --config.sampling.guidance='(0.0, 0.1, 1.0, 4.0)'`; for a
single class, add `--config.sampling.label=207`. `mini` is a small network for two CPU cores on the digits of the
package.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.guidance import CFG_VARIANTS, cfg_images

VARIANTS = CFG_VARIANTS


def get_config(variant: str = "") -> ConfigDict:
    config = cfg_images("imagenet64_resized", 64)
    config.model.width = 192
    config.model.depth = 3
    config.model.head_channels = 64
    config.model.dropout = 0.1
    config.data.batch_size = 2048
    config.optimizer.learning_rate = 3e-4
    config.training.num_steps = 400_000
    config.sampling.variance_mix = 0.3
    return with_variant(config, variant, VARIANTS)
