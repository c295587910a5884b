"""VDM on CIFAR-10 with augmentation (Kingma et al. 2021, table 1): 2.49 bits/dim (quoted).

    python -m vdm_jax.main --config=configs/cifar10_aug.py --workdir=runs/cifar10_aug

The augmentations are flips, 90° rotations and channel permutations. A bit conditions the network on whether an image
was augmented; the test images are evaluated with bit 0. The settings are the release's "paper version": attention in
every block, batch 1024, learning rate 2e-4, a monotone network for γ(t). Ours: none yet.
Cost: 929 GFLOP per image; the release stops after at most 100M steps, and the paper's number of steps is not verified.

Variants: `release` is the smaller model of the published weights (2.52, quoted; mid attention only,
batch 768, learning rate 1e-4, no channel permutations); those of configs/cifar10.py; `mini`.
"""

from ml_collections import ConfigDict

from vdm_jax.config import choose, with_variant
from vdm_jax.presets.vdm import VDM_ABLATIONS, VDM_MINI, vdm_images

VARIANTS = {
    **VDM_ABLATIONS,
    "mini": VDM_MINI,
    "release": {
        "model.attention": False,
        "data.batch_size": 768,
        "data.augment": ("flip", "rot90"),
        "optimizer.learning_rate": 1e-4,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    config = choose(vdm_images("cifar10", 32, width=256, depth=32), {"schedule.kind": "learned_monotone"})
    config.data.batch_size = 1024
    config.data.augment = ("flip", "rot90", "channels")
    config.model.attention = True
    config.model.dropout = 0.05
    config.training.num_steps = 100_000_000
    return with_variant(config, variant, VARIANTS)
