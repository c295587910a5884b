"""ADM on ImageNet 512 × 512 (Dhariwal & Nichol 2021, table 5): FID 7.72 with a classifier's guidance (quoted).

    python -m vdm_jax.main --config=configs/adm_imagenet512.py --workdir=runs/adm_imagenet512 --config.data.path=…
    python -m vdm_jax.main --config=configs/adm_imagenet512.py:classifier --workdir=runs/adm_imagenet512_classifier …

| row | steps, scale | FID | sFID | precision | recall |
| --- | --- | --- | --- | --- | --- |
| (base: ADM) | 250, unguided | 23.24 | 10.19 | .73 | .60 |
| ADM-G | 250, 4 | 7.72 | 6.57 | .87 | .42 |
| `ddim25` (ADM-G) | 25, 9 | 8.41 | 9.67 | .83 | .47 |

Quoted. Width 256 but 128 channels at 512 × 512, 2 blocks per resolution, 64 channels per head, batch 256, 1,940,000
steps, Adam 1e-4; 558,997,638 parameters, the classifier (500,000 steps, 3e-4, weight decay .05) 54,448,360. Published
weights: 512x512_diffusion.pt and, for `classifier`, 512x512_classifier.pt. Ours: none.
Cost: 11,789 GFLOP per image and step, 5.8e21 FLOP; at an assumed 300 TFLOP/s, 226 days of one accelerator (the
classifier 669 GFLOP, 8.6e19 FLOP, 3 days).
Slices: not yet planned.

data.path is a folder with train/ and test/ of 512 × 512 images and a subfolder for each class. `classifier` trains on
crops, so its images should be squares of 640 pixels or more. Variants: `classifier` `ddim25`, and `mini` for two CPU
cores, on CIFAR-10.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.guidance import ADM_MINI, CLASSIFIER, DDIM25, adm_images

VARIANTS = {"classifier": CLASSIFIER, "mini": ADM_MINI, "ddim25": {**DDIM25, "sampling.classifier_scale": 9.0}}


def get_config(variant: str = "") -> ConfigDict:
    config = adm_images("folder", 512)
    config.training.num_steps = 1_940_000
    config.sampling.classifier_scale = 4.0
    return with_variant(config, variant, VARIANTS)
