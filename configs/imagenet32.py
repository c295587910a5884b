"""VDM on ImageNet 32×32, the OLD version (van den Oord's): 3.72 bits/dim (Kingma et al. 2021, quoted).

    python -m vdm_jax.main --config=configs/imagenet32.py --workdir=runs/imagenet32 \
        --config.data.path=DIR    # with train_32x32.tar and valid_32x32.tar

OLD has 49,999 unlabeled validation images. It is harder than the NEW, box-resized version, and results on the two are
not comparable. Ours: none yet.
Cost: 2M steps of batch 512 at 614 GFLOP per image, 6.3e20 FLOP; at an assumed 300 TFLOP/s, 24 days of
one accelerator. 2M steps are the paper's; its batch size of 512 is recalled, not verified.

Variants: `release` has the original release's batch of 128 and 10M steps; `new` is the NEW data set
(imagenet32_resized); those of configs/cifar10.py; `mini`.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.vdm import VDM_ABLATIONS, VDM_MINI, vdm_images

VARIANTS = {
    **VDM_ABLATIONS,
    "mini": VDM_MINI,
    "release": {"data.batch_size": 128, "training.num_steps": 10_000_000},
    "new": {"data.name": "imagenet32_resized"},
}


def get_config(variant: str = "") -> ConfigDict:
    config = vdm_images("imagenet32", 32, width=256, depth=32)
    config.data.batch_size = 512
    config.training.num_steps = 2_000_000
    return with_variant(config, variant, VARIANTS)
