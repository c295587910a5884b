"""NCSN on CIFAR-10 (Song & Ermon 2019): annealed Langevin dynamics on ten levels; FID 25.32, IS 8.87 (quoted).

    python -m vdm_jax.main --config=configs/ncsn_cifar10.py --workdir=runs/ncsn_cifar10

Network, levels, loss, optimizer and sampler are the paper's: a RefineNet with norms conditioned on the index of the
level, width 128, 30,117,635 parameters (counted here and in the authors' code); σ geometric from 1 to .01 on data in
[0, 1]; σ² ‖score error‖²; Adam 1e-3, 200,000 steps of batch 128; 100 Langevin steps at each level with
h = 2·10⁻⁵ σ²/σ_10², which is r = .316, and no denoising at the end. Except for the parameter count, the settings are
from the authors' code; FID and IS are quoted. Differences: sampling starts from N(0, σ_1²) instead of uniform noise,
and the loss is a mean over pixels instead of half a sum (which does not affect Adam). The bits/dim of an evaluation are
a bound for a network that is evaluated between its levels, with the index of the nearest one; the papers have no such
number. The authors' weights load after they are saved again (`vdm_jax.convert.ncsn`). Ours: none at this size yet.

`ncsnpp` uses NCSN++'s U-Net and optimizer instead. `v2` is NCSNv2 (Song & Ermon 2020): 232 levels from 50 to .01, 5
steps at each, r = .176 (6.2·10⁻⁶), EMA .999, denoising; FID 10.87 (recalled). Its network is not implemented and is
replaced by NCSN++'s. Levels and steps are from the configs of score_sde, which reimplements both.

Cost: 54 GFLOP per image, 1.4e18 FLOP; at an assumed 300 TFLOP/s, 1.3 hours of one accelerator; not yet planned. A
sample takes 1,000 (`v2` 1,160) network calls.

Variants: `ncsnpp`, `v2`, `mini` for two CPU cores. They combine: `ncsnpp,mini`.
"""

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import choose, with_variant
from vdm_jax.presets.sde import SDE_MINI, sde_images

NCSNPP: dict[str, Any] = {
    "model.network": "multiscale",
    "model.family": "ncsnpp",
    "model.told": "time",
    "model.dropout": 0.1,
    "optimizer.learning_rate": 2e-4,
    "optimizer.warmup_steps": 5000,
    "optimizer.clip": 1.0,
}
# Annealed Langevin dynamics visits all trained levels.
_MINI = {name: value for name, value in SDE_MINI.items() if name != "sampling.num_steps"}
VARIANTS: dict[str, dict[str, Any]] = {
    "ncsnpp": NCSNPP,
    "v2": {
        **NCSNPP,
        "schedule.sigma_max": 50.0,
        "training.num_timesteps": 232,
        "training.num_steps": 300_000,
        "optimizer.ema": 0.999,
        "sampling.num_steps": 232,
        "sampling.corrector_steps": 5,
        "sampling.snr": 0.176,
        "sampling.denoise": True,
    },
    "mini": {**_MINI, "optimizer.ema": 0.99},
}


def get_config(variant: str = "") -> ConfigDict:
    parts = {
        "schedule.kind": "ve_sde",
        "model.network": "refinenet",
        "model.told": "index",
        "sampling.sampler": "langevin",
        "evaluation.estimator": "vlb",
    }
    config = choose(sde_images("cifar10", 32), parts)
    config.schedule.sigma_max = 1.0
    config.training.num_timesteps = 10
    config.training.num_steps = 200_000
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 0
    config.optimizer.clip = 0.0
    config.optimizer.ema = 0.0
    config.sampling.num_steps = 10
    config.sampling.corrector_steps = 100
    config.sampling.snr = 0.316
    config.sampling.denoise = False
    return with_variant(config, variant, VARIANTS)
