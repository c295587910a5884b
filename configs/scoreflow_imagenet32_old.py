"""ScoreFlow on ImageNet 32×32, OLD (Song, Durkan, Murray & Ermon 2021): 3.76 bits/dim by the flow (quoted).

    python -m vdm_jax.main --config=configs/scoreflow_imagenet32_old.py --workdir=runs/scoreflow_imagenet32_old \
        --config.data.path=DIR    # with train_32x32.tar and valid_32x32.tar

Paper: 3.76 by the flow, 3.86 by the bound (both quoted from VDM's table), with variational dequantization (recalled).
Ours is uniform, or that of the variant `dequantizer`, as in configs/scoreflow_cifar10.py. Numbers on the NEW,
box-resized version are not comparable. The network (DDPM++ deep, sub-VP), batch and number of steps are those of
configs/scoreflow_cifar10.py, not the paper's, and unverified. Ours: none yet.

Cost: 104 GFLOP per image, 1.3e19 FLOP; at an assumed 300 TFLOP/s, 12 hours of one accelerator.

Variants: `vp` `bound` `uniform_times` `dequantizer`, `mini` for two CPU cores.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.sde import SCOREFLOW_VARIANTS, scoreflow_images

VARIANTS = SCOREFLOW_VARIANTS


def get_config(variant: str = "") -> ConfigDict:
    return with_variant(scoreflow_images("imagenet32", 32), variant, VARIANTS)
