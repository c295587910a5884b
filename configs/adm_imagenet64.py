"""ADM on ImageNet 64 × 64 (Dhariwal & Nichol 2021, table 5): FID 2.07 with dropout, unguided, 250 steps (quoted).

    python -m vdm_jax.main --config=configs/adm_imagenet64.py --workdir=runs/adm_imagenet64 --config.data.path=…
    python -m vdm_jax.main --config=configs/adm_imagenet64.py:classifier --workdir=runs/adm_imagenet64_classifier …

| row | FID | sFID | precision | recall |
| --- | --- | --- | --- | --- |
| `no_dropout` (ADM) | 2.61 | 3.77 | .73 | .63 |
| (base: ADM, dropout) | 2.07 | 4.29 | .74 | .63 |

Quoted; 250 of T = 1000 levels, cosine β. The released classifier is for a scale of 1.0. Width 192, 3 blocks per
resolution, batch 2048, 540,000 steps, Adam 3e-4, dropout .1; 295,904,454 parameters, the classifier (4 blocks per
resolution, batch 1024, 6e-4, weight decay .2) 65,438,568. Published weights: 64x64_diffusion.pt (the only one whose q,
k and v are in the 'new' order) and, for `classifier`, 64x64_classifier.pt. Ours: none.
Cost: 630 GFLOP per image and step, 7.0e20 FLOP; at an assumed 300 TFLOP/s, 27 days of one accelerator (the classifier
109 GFLOP, 3.4e19 FLOP, 31 hours).
Slices: not yet planned.

The images must have labels, so they are the NEW downsampled ImageNet. The paper's code resized images with a box filter
and cropped them, and its classifier was trained on crops of larger images. For the latter, use a folder of larger
images with `--config.data.augment="('flip','crop')"`.
Variants: `no_dropout` `classifier` `ddim25`, and `mini` for two CPU cores, on CIFAR-10.
"""

from ml_collections import ConfigDict

from vdm_jax.config import choose, with_variant
from vdm_jax.presets.guidance import ADM_MINI, CLASSIFIER, DDIM25, adm_images

VARIANTS = {
    "no_dropout": {"model.dropout": 0.0},
    "classifier": {
        **CLASSIFIER,
        "data.augment": ("flip",),
        "data.batch_size": 1024,
        "model.depth": 4,
        "training.num_steps": 300_000,
        "optimizer.learning_rate": 6e-4,
        "optimizer.weight_decay": 0.2,
    },
    "mini": ADM_MINI,
    "ddim25": DDIM25,
}


def get_config(variant: str = "") -> ConfigDict:
    config = choose(adm_images("imagenet64_resized", 64), {"schedule.kind": "ddpm_cosine"})
    config.data.batch_size = 2048
    config.model.width = 192
    config.model.depth = 3
    config.model.dropout = 0.1
    config.model.qkv_order = "new"
    config.training.num_steps = 540_000
    config.optimizer.learning_rate = 3e-4
    return with_variant(config, variant, VARIANTS)
