"""Step rules by name, and their time grids, for diffusions on a schedule γ(t)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vdm_jax.diffusion import reverse, samplers, schedules, sde_steps
from vdm_jax.diffusion.process import Noise, Process, expand
from vdm_jax.gaussian.base import Sampler

ADAPTIVE = "adaptive"
Rule = Callable[[samplers.Predict], samplers.Step]
# The samplers of score SDEs that take uniform steps in γ. A step of δ ≥ 4 amplifies the remaining noise, and steps that
# are uniform in t end with one of δ = 8.
IN_GAMMA = ("euler", "heun", ADAPTIVE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """The time grid of a sampler, and how its states are visualized.

    Attributes:
        in_gamma: The names of the step rules whose steps are uniform in γ, not in t.
        end: The schedule's t at the last noise level.
        unit_scale: Whether pictures show z/√(α² + σ²).
        final_nfe: The number of network evaluations after the last step.
    """

    in_gamma: tuple[str, ...] = ()
    end: float = 0.0
    unit_scale: bool = False
    final_nfe: int = 0

    def transitions(
        self, sampler: str, schedule: schedules.Schedule, level_of: Callable[[Array], Noise], num_steps: int
    ) -> tuple[samplers.Transition, np.ndarray]:
        """Return the steps from t = 1 to the end, and their grid in t.

        'langevin' does not move between noise levels: it runs at each of num_steps levels instead.
        """
        stays = sampler == "langevin"
        grid = samplers.uniform_grid(num_steps - 1 if stays else num_steps)
        if self.end:
            grid = 1 - (1 - self.end) * (1 - grid)
        if sampler in self.in_gamma:
            line = schedules.linear(schedule.gamma(jnp.asarray(self.end)), schedule.gamma_1)
            return samplers.transitions(line, samplers.uniform_grid(num_steps), level_of), grid
        between = samplers.transitions(schedule, grid, level_of)
        return sde_steps.visits(between) if stays else between, grid

    def visualize(self, steps: samplers.Transition) -> Callable[[Array, Sequence[int]], Array]:
        """Return the function (states after the kept steps [K, b, …], keep) → states on the scale of pictures."""

        def scaled(path: Array, keep: Sequence[int]) -> Array:
            level = jax.tree.map(lambda a: a[jnp.asarray(keep, int)], steps.to)
            return path / expand(jnp.sqrt(jnp.square(level.alpha) + jnp.square(level.sigma)), path.ndim)

        return scaled if self.unit_scale else lambda path, keep: path


def step_rule(
    sampler: Sampler,
    predict: samplers.Predict,
    process: Process,
    schedule: schedules.Schedule,
    grid: np.ndarray,
    own: Mapping[str, Rule],
) -> samplers.Step:
    """Return the step rule of a sampler.

    Args:
        sampler: The settings of the sampler.
        predict: The denoiser, (z, level) → Prediction.
        process: The forward process.
        schedule: The schedule γ(t).
        grid: The time grid of the steps.
        own: Step rules of the method itself by name, which take precedence.
    """
    if sampler.name in own:
        return own[sampler.name](predict)
    mix = sampler.variance_mix
    elapsed = lambda: sde_steps.elapsed_gamma(schedule, jnp.asarray(grid, jnp.result_type(float)))
    corrector = lambda size: sde_steps.langevin(predict, size(sampler.snr), sampler.corrector_steps)
    backwards = sde_steps.reverse_diffusion(predict)
    rules: dict[str, Callable[[], samplers.Step]] = {
        "ancestral": lambda: reverse.ancestral(predict, mix) if mix else samplers.ancestral(predict),
        "ddim": lambda: samplers.ddim(predict, sampler.eta),
        "euler": lambda: samplers.euler(predict, process),
        "heun": lambda: samplers.heun(predict, process),
        ADAPTIVE: lambda: samplers.heun(predict, process),  # for callers that need single steps, such as editing
        "euler_maruyama": lambda: sde_steps.euler_maruyama(predict, process, elapsed()),
        "reverse_diffusion": lambda: backwards,
        "predictor_corrector": lambda: sde_steps.predictor_corrector(backwards, corrector(sde_steps.by_norms)),
        "langevin": lambda: corrector(sde_steps.by_sigma),
    }
    return rules[sampler.name]()
