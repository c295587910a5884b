"""VDM on CIFAR-10 without augmentation (Kingma et al. 2021, table 1): 2.65 bits/dim (quoted).

    python -m vdm_jax.main --config=configs/cifar10.py --workdir=runs/cifar10

Paper: test bits/dim 2.65 (continuous VLB), FID 7.41; the FID of 4.0 is that of a model trained with the simple
weighting (variant `simple`). Ours: none at this size yet; the small-scale run is in the README.
Published weights (2.64, quoted), copied from gs://gresearch/vdm/cifar10/checkpoint-final:

    python -m vdm_jax.main --config=configs/cifar10.py --workdir=runs/eval --mode=eval --weights=checkpoint-final

Cost: 10M steps of batch 128 at 155 GFLOP per image, 2e20 FLOP; at an assumed 300 TFLOP/s, 7.7 days of
one accelerator. The paper's batch size is recalled, not verified; all settings are those of the release.

Variants: `T10` `T100` `T250` `T500` `T1000` `no_fourier` `fixed` `monotone` `minimize_variance`
`simple`, `mini` for two CPU cores, and `recipe`, other initial weights and optimizer for the mini size
(experiments/vdm/recipe.py: 3.45 bits/dim after 900 steps on a subset). They combine: `cifar10.py:mini,recipe`.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.vdm import VDM_ABLATIONS, VDM_MINI, VDM_RECIPE, vdm_images

VARIANTS = {**VDM_ABLATIONS, "mini": VDM_MINI, "recipe": VDM_RECIPE}


def get_config(variant: str = "") -> ConfigDict:
    return with_variant(vdm_images("cifar10", 32, width=128, depth=32), variant, VARIANTS)
