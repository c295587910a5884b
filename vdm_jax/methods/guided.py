"""Diffusions whose samples are guided by the gradients of frozen parts: a noisy classifier, a noised CLIP, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jax import Array
from ml_collections import ConfigDict

from vdm_jax.conditioning import Guided
from vdm_jax.conditioning.base import Condition
from vdm_jax.core import chain as chains
from vdm_jax.core.chain import Chain
from vdm_jax.core.method import Frozen, Method, Params
from vdm_jax.diffusion import guidance
from vdm_jax.diffusion.process import Noise
from vdm_jax.gaussian.continuous import Continuous
from vdm_jax.gaussian.discrete import Discrete
from vdm_jax.methods import ddpm, flow_matching, sde, vdm

_MODELS: Mapping[str, Callable[[ConfigDict], Discrete | Continuous]] = {
    "vdm": vdm.model,
    "ddpm": ddpm.model,
    "sde": sde.model,
    "flow_matching": flow_matching.model,
}
_BUILD = {"vdm": vdm.build, "ddpm": ddpm.build, "sde": sde.build, "flow_matching": flow_matching.build}
METHODS = tuple(_MODELS)


class Guide(NamedTuple):
    """A frozen part whose gradient guides sampling.

    Attributes:
        key: The key of its parameters.
        gradient: (its params, values of conditions by name) → (z, level) → ∇_z log p(c|z).
        scale: The scale of the gradient.
        condition: The condition c.
        part: The part.
    """

    key: str
    gradient: Callable[[Params, Mapping[str, Array]], guidance.Gradient]
    scale: guidance.Weight
    condition: Condition
    part: Frozen


def build(config: ConfigDict, guides: Sequence[Guide]) -> Method:
    """Build a diffusion whose samples are guided; its params hold those of each guide under the guide's key."""
    diffusion = _MODELS[config.method](config)

    def chain(params: Params, cond: Any, num_steps: int) -> Chain:
        values = cond.cond if isinstance(cond, Guided) else cond
        pulls = [(guide.gradient(params[guide.key], values), guide.scale) for guide in guides]
        gradient, scale = pulls[0] if len(pulls) == 1 else (total(pulls), 1.0)
        return diffusion.chain(params, cond, num_steps, gradient, scale)

    own = {guide.condition.name: guide.condition for guide in guides}
    conditions = (*(c for c in diffusion.conditions if c.name not in own), *own.values())
    frozen = {guide.key: guide.part for guide in guides}
    return _BUILD[config.method](config)._replace(
        sample=chains.sampler(chain), chain=chain, conditions=conditions, frozen=frozen
    )


def total(pulls: Sequence[tuple[guidance.Gradient, guidance.Weight]]) -> guidance.Gradient:
    """Return Σ_i s_i ∇ log p(c_i|z)."""

    def gradient(z: Array, level: Noise) -> Array:
        first, *rest = (guidance.scaled(each, scale, z, level) for each, scale in pulls)
        return sum(rest, first)

    return gradient
