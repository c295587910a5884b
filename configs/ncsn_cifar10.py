"""NCSN on CIFAR-10 (Song & Ermon 2019): annealed Langevin dynamics on ten levels; FID 25.3, IS 8.87 (quoted).

    python -m vdm_jax.main --config=configs/ncsn_cifar10.py --workdir=runs/ncsn_cifar10

Levels, loss and sampler are the paper's: σ geometric from 1 to .01 on data in [0, 1], σ² ‖score error‖², 100 Langevin
steps at each level with h = 2·10⁻⁵ σ²/σ_10², which is r = .316, and no denoising at the end. `v2` is NCSNv2 (Song &
Ermon 2020): 232 levels from 50 to .01, 5 steps at each, r = .176 (6.2·10⁻⁶), EMA .999, denoising; FID 10.87 (recalled).
Levels and steps are read in the configs of score_sde, which reimplements both.

The network is not theirs: a RefineNet with conditional instance norms is not here, NCSN++'s U-Net with its optimiser
stands in. So do N(0, σ_1²) samples at the start for uniform ones. The bits/dim that an evaluation prints are a bound
of a network asked between its levels, no number of the papers. Ours: none at this size yet.

Cost: 61 GFLOP an image, 200,000 steps (recalled; `v2` 300,000) of batch 128: 1.6e18 FLOP; at an assumed 300 TFLOP/s,
1.4 hours of one accelerator. 1,000 (`v2` 1,160) network calls a sample.

Variants: `v2`, `mini` for two CPU cores.
"""

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.sde import SDE_MINI, VE, sde_images

VARIANTS: dict[str, dict[str, Any]] = {
    "v2": {
        "schedule.sigma_max": 50.0,
        "training.num_timesteps": 232,
        "training.num_steps": 300_000,
        "optimizer.ema": 0.999,
        "sampling.num_steps": 232,
        "sampling.corrector_steps": 5,
        "sampling.snr": 0.176,
        "sampling.denoise": True,
    },
    "mini": {**SDE_MINI, "optimizer.ema": 0.99, "sampling.num_steps": 10},
}


def get_config(variant: str = "") -> ConfigDict:
    config = with_variant(sde_images("cifar10", 32), "ve", {"ve": VE})
    config.schedule.sigma_max = 1.0
    config.training.num_timesteps = 10
    config.training.num_steps = 200_000
    config.optimizer.ema = 0.0
    config.evaluation.estimator = "vlb"
    config.sampling.sampler = "langevin"
    config.sampling.num_steps = 10
    config.sampling.corrector_steps = 100
    config.sampling.snr = 0.316
    config.sampling.denoise = False
    return with_variant(config, variant, VARIANTS)
