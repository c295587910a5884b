"""ScoreFlow on CIFAR-10 (Song, Durkan, Murray & Ermon 2021): 2.83 bits/dim by the flow (quoted).

    python -m vdm_jax.main --config=configs/scoreflow_cifar10.py --workdir=runs/scoreflow_cifar10

The model is DDPM++ deep with the sub-VP SDE, trained on its variational bound. This is the likelihood weighting, g²
times the squared error of the score, which equals ½ γ′(t) ‖ε − ε̂‖², with t drawn in proportion to the weight (γ is
uniform). Paper: 2.83 by the flow without augmentation; with flips (variant `flips`) 2.80 by the flow and 2.90 by the
bound (all three quoted from VDM's table). Those numbers are with variational dequantization (recalled). Uniform
dequantization, as in this config, is not expected to reach them. The variant `dequantizer` trains a small flow of
affine couplings for the frozen model,

    python -m vdm_jax.main --config=configs/scoreflow_cifar10.py:dequantizer --workdir=runs/scoreflow_dequantizer \
        --weights=runs/scoreflow_cifar10

and then reports bits/dim with it and with uniform noise (`uniform` in eval.json). The paper takes the larger flow of
Flow++ (recalled); the size and number of steps of ours are assumed.

It is recalled and unverified that deep sub-VP is the paper's best model, and how many steps it was trained for. Ours:
none yet.

`bound` evaluates the bound instead of the flow. Cost: 104 GFLOP per image, 1.3e19 FLOP; at an assumed 300 TFLOP/s, 12
hours of one accelerator. The flow's likelihood of the test set takes five passes with about a hundred calls and
gradients per image.

Variants: `flips` `vp` `bound` `dequantizer`; `uniform_times` (t is uniform, to compare the variance of the loss);
`mini` for two CPU cores.
"""

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.sde import SCOREFLOW_VARIANTS, scoreflow_images

VARIANTS: dict[str, dict[str, Any]] = {**SCOREFLOW_VARIANTS, "flips": {"data.augment": ("flip",)}}


def get_config(variant: str = "") -> ConfigDict:
    return with_variant(scoreflow_images("cifar10", 32), variant, VARIANTS)
