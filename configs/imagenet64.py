"""VDM on ImageNet 64×64, the OLD version (van den Oord's): 3.40 bits/dim (Kingma et al. 2021, quoted).

    python -m vdm_jax.main --config=configs/imagenet64.py --workdir=gs://BUCKET/imagenet64 \
        --config.data.path=DIR    # with train_64x64.tar and valid_64x64.tar

OLD has 49,999 unlabeled validation images; NEW (imagenet64_resized) is a different data set. Ours: none yet.
Cost: 2M steps of batch 512 at 4,927 GFLOP per image, 5.0e21 FLOP; at an assumed 300 TFLOP/s, 195 days of
one accelerator. 2M steps are the paper's; its batch size of 512 and its 128 TPUv3 chips are recalled.

Variants: `release` has the original release's batch of 128 and 10M steps; `new` is the NEW data set;
those of configs/cifar10.py; `mini`.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.vdm import VDM_ABLATIONS, VDM_MINI, vdm_images

VARIANTS = {
    **VDM_ABLATIONS,
    "mini": VDM_MINI,
    "release": {"data.batch_size": 128, "training.num_steps": 10_000_000},
    "new": {"data.name": "imagenet64_resized"},
}


def get_config(variant: str = "") -> ConfigDict:
    config = vdm_images("imagenet64", 64, width=256, depth=64)
    config.data.batch_size = 512
    config.model.remat = "full"
    config.training.num_steps = 2_000_000
    return with_variant(config, variant, VARIANTS)
