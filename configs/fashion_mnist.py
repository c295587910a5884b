"""VDM on Fashion-MNIST, 28×28 gray images of 256 values. It is not in the paper.

    python -m vdm_jax.main --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist \
        --config.data.path=DIR    # with the four idx files

The paper reports no result for it. Ours: none yet. Cost: about 30 GFLOP per image (not measured).
`mini` runs on two CPU cores; the ablations of configs/cifar10.py apply.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.vdm import VDM_ABLATIONS, VDM_MINI, vdm_images

VARIANTS = {**VDM_ABLATIONS, "mini": VDM_MINI}


def get_config(variant: str = "") -> ConfigDict:
    config = vdm_images("fashion_mnist", 28, width=96, depth=8)
    config.data.shape = (28, 28, 1)
    config.training.num_steps = 200_000
    config.training.checkpoint_every = 5_000
    config.training.eval_every = 20_000
    config.training.sample_every = 20_000
    config.optimizer.clip = 1.0
    return with_variant(config, variant, VARIANTS)
