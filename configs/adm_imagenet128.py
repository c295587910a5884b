"""ADM on ImageNet 128 × 128 (Dhariwal & Nichol 2021, table 5): FID 2.97 with a classifier's guidance (quoted).

    python -m vdm_jax.main --config=configs/adm_imagenet128.py --workdir=runs/adm_imagenet128 --config.data.path=…
    python -m vdm_jax.main --config=configs/adm_imagenet128.py:classifier --workdir=runs/adm_imagenet128_classifier …

| row | steps, scale | FID | sFID | precision | recall |
| --- | --- | --- | --- | --- | --- |
| (base: ADM) | 250, unguided | 5.91 | 5.09 | .70 | .65 |
| ADM-G | 250, 0.5 | 2.97 | 5.09 | .78 | .59 |
| `ddim25` (ADM-G) | 25, 1.25 | 5.98 | 7.04 | .78 | .51 |

Quoted. Width 256, 2 blocks per resolution, 4 heads, batch 256, 4,360,000 steps, Adam 1e-4; 421,529,606 parameters, the
classifier (300,000 steps, 3e-4, weight decay .05) 42,568,040. Published weights: 128x128_diffusion.pt and, for
`classifier`, 128x128_classifier.pt. Ours: none.
Cost: 1,793 GFLOP per image and step, 2.0e21 FLOP; at an assumed 300 TFLOP/s, 77 days of one accelerator (the
classifier 122 GFLOP, 9.4e18 FLOP, 9 hours).
Slices: not yet planned.

The ablation that led to ADM (tables 1 to 3, recalled; FID after 700,000 steps of batch 256):

| variants | FID |
| --- | --- |
| `ablation` (160 channels, 2 blocks, 1 head, attention at 16, convolutions that resample) | 15.33 |
| `ablation,deeper` (128 channels, 4 blocks) | −0.21 |
| `ablation,heads4` | −0.54 |
| `ablation,more_attention` (32, 16, 8) | −0.72 |
| `ablation,blocks` (residual blocks that resample) | −1.20 |
| `ablation,rescaled` (sums over √2) | +0.16 |
| `ablation,heads4,more_attention,blocks` | −3.14 |
| the same at 128 channels, `per_head32` or `per_head64` for `heads4` | −1.36, −1.03 of one head's 14.08 |
| `added_embedding` for scale and shift | 15.08 of 13.06 |

data.path: a folder with train/ and test/ of 128 × 128 images, with one subfolder per class. The variant `classifier` is
trained on crops, so its images should be squares with sides of 160 or more. Variants combine in any order; `mini` is a
small model of CIFAR-10 for two CPU cores.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.guidance import ABLATIONS, ADM_MINI, CLASSIFIER, DDIM25, SMALL_ABLATIONS, adm_images

VARIANTS = {
    "classifier": {**CLASSIFIER, "training.num_steps": 300_000},
    **ABLATIONS,
    "mini": ADM_MINI,
    **SMALL_ABLATIONS,
    "ddim25": {**DDIM25, "sampling.classifier_scale": 1.25},
}


def get_config(variant: str = "") -> ConfigDict:
    config = adm_images("folder", 128)
    config.model.heads = 4
    config.model.head_channels = 0
    config.training.num_steps = 4_360_000
    config.sampling.classifier_scale = 0.5
    return with_variant(config, variant, VARIANTS)
