"""ADM on ImageNet 256 × 256 (Dhariwal & Nichol 2021, tables 4 and 5): FID 4.59 with a classifier's guidance (quoted).

    python -m vdm_jax.main --config=configs/adm_imagenet256.py --workdir=runs/adm_imagenet256 --config.data.path=…
    python -m vdm_jax.main --config=configs/adm_imagenet256.py:classifier --workdir=runs/adm_imagenet256_classifier …

| row | scale | FID | sFID | IS | precision | recall |
| --- | --- | --- | --- | --- | --- | --- |
| `uncond` | – | 26.21 | 6.35 | 39.70 | .61 | .63 |
| `uncond` | 1 | 33.03 | 6.99 | 32.92 | .56 | .65 |
| `uncond` | 10 | 12.00 | 10.40 | 95.41 | .76 | .44 |
| (base: ADM) | – | 10.94 | 6.02 | – | .69 | .63 |
| ADM-G | 1 | 4.59 | 5.25 | 186.70 | .82 | .52 |
| ADM-G | 10 | 9.11 | 10.93 | 283.92 | .88 | .32 |
| `ddim25` (ADM-G, 25 steps) | 2.5 | 5.44 | 5.32 | – | .81 | .49 |

Quoted; 250 steps unless noted. Width 256, 2 blocks per resolution, 64 channels per head, batch 256, 1,980,000 steps,
Adam 1e-4; 553,838,086 parameters (`uncond` and `lsun` 552,814,086), the classifier (500,000 steps, 3e-4, weight decay
.05) 54,096,360. Published weights: 256x256_diffusion.pt, 256x256_diffusion_uncond.pt, 256x256_classifier.pt, and for
`lsun` lsun_bedroom.pt, lsun_cat.pt, lsun_horse.pt (500,000, 200,000 and 250,000 steps; FID 1.90, 5.57 and 2.57 with
1,000 sampling steps). Ours: none.
Cost: 6,626 GFLOP per image and step, 3.4e21 FLOP; at an assumed 300 TFLOP/s, 130 days of one accelerator (the
classifier 433 GFLOP, 5.5e19 FLOP, 2 days).
Slices: not yet planned.

data.path: a folder with train/ and test/ of 256 × 256 images, with one subfolder per class. The variant `classifier` is
trained on crops, so its images should be squares with sides of 320 or more. Variants: `uncond` `classifier` `ddim25`
`lsun` `no_dropout`; `mini` is a small model of CIFAR-10 for two CPU cores.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.guidance import ADM_MINI, CLASSIFIER, DDIM25, UNCONDITIONAL, adm_images

VARIANTS = {
    "classifier": CLASSIFIER,
    "lsun": {
        **UNCONDITIONAL,
        "model.dropout": 0.1,
        "training.num_steps": 500_000,
        "sampling.respacing": "",
        "sampling.num_steps": 1000,
    },
    "no_dropout": {"model.dropout": 0.0},
    "mini": ADM_MINI,
    "ddim25": {**DDIM25, "sampling.classifier_scale": 2.5},
    "uncond": {**UNCONDITIONAL, "sampling.classifier_scale": 10.0},
}


def get_config(variant: str = "") -> ConfigDict:
    config = adm_images("folder", 256)
    config.training.num_steps = 1_980_000
    return with_variant(config, variant, VARIANTS)
