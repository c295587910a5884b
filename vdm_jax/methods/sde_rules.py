"""The samplers of the score SDEs by the names that a config has for them."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.diffusion import samplers, schedules, sde_steps
from vdm_jax.diffusion.process import Noise, Process

# Integrated in γ: a step of δ ≥ 4 would enlarge what noise is left, and equal steps of t end in one of 8.
IN_GAMMA = ("euler", "heun", "adaptive")


def steps(
    sampler: str, schedule: schedules.Schedule, level_of: Callable[[Array], Noise], num_steps: int, end: float = 0.0
) -> tuple[samplers.Transition, np.ndarray]:
    """Steps from t = 1 to `end`, both of the schedule, and their grid: equal in the t of the SDE, or in γ for IN_GAMMA.

    'langevin' stays at num_steps levels instead.
    """
    stays = sampler == "langevin"
    grid = 1 - (1 - end) * (1 - samplers.uniform_grid(num_steps - 1 if stays else num_steps))
    if sampler in IN_GAMMA:
        last = schedule.gamma(jnp.asarray(end))
        return samplers.transitions(
            schedules.linear(last, schedule.gamma_1), samplers.uniform_grid(num_steps), level_of
        ), grid
    between = samplers.transitions(schedule, grid, level_of)
    return sde_steps.visits(between) if stays else between, grid


def step_rule(
    section: ConfigDict, process: Process, schedule: schedules.Schedule, grid: np.ndarray, predict: samplers.Predict
) -> samplers.Step:
    """The reverse step that the `sampling` section names."""
    elapsed = sde_steps.elapsed_gamma(schedule, jnp.asarray(grid, jnp.result_type(float)))
    corrector = lambda size: sde_steps.langevin(predict, size(section.snr), section.corrector_steps)
    backwards = sde_steps.reverse_diffusion(predict)
    rules: dict[str, Callable[[], samplers.Step]] = {
        "ancestral": lambda: samplers.ancestral(predict),
        "ddim": lambda: samplers.ddim(predict, section.eta),
        "euler": lambda: samplers.euler(predict, process),
        "heun": lambda: samplers.heun(predict, process),
        "adaptive": lambda: samplers.heun(predict, process),  # where single steps are wanted, as editing does
        "euler_maruyama": lambda: sde_steps.euler_maruyama(predict, process, elapsed),
        "reverse_diffusion": lambda: backwards,
        "predictor_corrector": lambda: sde_steps.predictor_corrector(backwards, corrector(sde_steps.by_norms)),
        "langevin": lambda: corrector(sde_steps.by_sigma),
    }
    return rules[section.sampler]()
