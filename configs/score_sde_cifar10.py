"""Score SDEs on CIFAR-10 (Song et al. 2021, tables 2 and 3): 2.99 bits/dim by the flow of sub-VP, deep (quoted).

    python -m vdm_jax.main --config=configs/score_sde_cifar10.py:subvp,deep --workdir=runs/score_sde_subvp_deep

| variants | FID | FID, ODE | bits/dim | |
| --- | --- | --- | --- | --- |
| (VP) | 2.55 | 3.93 | 3.16 | DDPM++ cont. |
| `deep` | 2.41 | 3.08 | 3.13 | DDPM++ cont. deep |
| `subvp` | 2.61 | 3.16 | 3.02 | |
| `subvp,deep` | 2.41 | 2.92 | 2.99 | |
| `ve` | 2.38 | – | – | NCSN++ cont. |
| `ve,deep` | 2.20 | – | – | NCSN++ cont. deep |
| `ddpm` | – | 3.69 | 3.21 | DDPM cont. |
| `subvp,ddpm` | – | 3.56 | 3.05 | |
| `ve_discrete` | 2.45 | – | – | NCSN++, conditioned on the index of one of 1,000 levels |
| `vp_discrete` | 2.78 | – | – | DDPM++, likewise |
| `vp_discrete,ddpm` | 3.24 | 3.37 | 3.28 | DDPM |

All rows are quoted from the list of checkpoints of the original code. Each row is two checkpoints: the FID is that of
the best step in training, and FID (ODE) and bits/dim are those of the last step. Likelihoods are those of uniformly
dequantized test images in five passes. The FID of VP, deep took 2,000 network calls (quoted from DDGAN's table), so it
includes a corrector (variant `pc`); the released configs use 1,000 Euler–Maruyama steps, as here. Ours: none at this
size yet.

Settings are those of the original's configs: batch 128, flips, dropout .1, Adam 2e-4, 1.3M steps (`deep`: 950,000),
EMA .9999 (`ve`: .999), VP and sub-VP with β from .1 to 20, VE with σ from .01 to 50 on data in [0, 1]. Differences:
training uses dequantized data, the loss is a mean over pixels with VE too (the original's is a sum before clipping),
and samples end at t = 1e-5, not 1e-3 (`fid` does that for VP and sub-VP).
Parameters: 61,804,419 (`deep` 106,632,579), `ve` 62,758,915 (`ve,deep` 107,587,075), counted. Cost: 61 GFLOP per image
(`deep` 104), 1.0e19 FLOP in total (`deep` 1.3e19); at an assumed 300 TFLOP/s, 9 (12) hours of one accelerator.

The time input of a discrete VP model is the index of the level of DDPM's table that has the same γ. Its steps have the
posterior's variance β̃; the original's have β. configs/ddpm_cifar10.py with --config.model.family=ddpmpp
--config.model.depth=4 loads the weights too, as the DDPM that they were trained as.

Variants: `ve` `vp` `subvp` `deep` `ddpm` `ve_discrete` `vp_discrete` `fid` `pc`, `ode` (samples by an adaptive solver
with tolerance 1e-5, as in the column FID, ODE; the original's RK45 is Tsit5 here, with separate steps for each image),
`mini` for two CPU cores. They combine: `subvp,deep`, `ve,mini`.
"""

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.sde import DEEP, SDE_MINI, VE, VE_DISCRETE, VP_DISCRETE, sde_images

VARIANTS: dict[str, dict[str, Any]] = {
    "vp": {},
    "subvp": {"schedule.kind": "sub_vp_sde"},
    "ve": VE,
    "ve_discrete": VE_DISCRETE,
    "vp_discrete": VP_DISCRETE,
    "deep": DEEP,
    "ddpm": {"model.family": "ddpm", "model.depth": 2},
    "fid": {"sampling.t_min": 1e-3},
    "pc": {"sampling.sampler": "predictor_corrector"},
    "ode": {"sampling.sampler": "adaptive", "sampling.t_min": 1e-3},
    "mini": SDE_MINI,
}


def get_config(variant: str = "") -> ConfigDict:
    return with_variant(sde_images("cifar10", 32), variant, VARIANTS)
