"""Samples along the probability flow by a solver that chooses its steps (Song et al. 2021, §4.3 and appendix D.4).

Every image is solved by itself, so it depends on no other of its batch; a batch takes as long as its slowest image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.diffusion import likelihood
from vdm_jax.diffusion.prediction import Denoise, Prediction
from vdm_jax.diffusion.process import Noise
from vdm_jax.errors import UserError
from vdm_jax.fields import ANY_TIME, Component, Field
from vdm_jax.methods import chains, conditioning
from vdm_jax.methods.base import Params
from vdm_jax.methods.chains import Chain

COMPONENTS = (
    Component(
        {
            "sampling.tolerance": Field(
                1e-5, "of a step of the sampler 'adaptive', relative and absolute", low=2e-6, high=0.1, resume=ANY_TIME
            )
        },
        {"sampling.sampler": ("adaptive",)},
    ),
)


class Continuous(Protocol):
    """The functions of a method that has a probability flow."""

    @property
    def config(self) -> ConfigDict: ...

    def split(self, raw: Array, z: Array, level: Noise) -> Prediction: ...

    def denoise(self, params: Params, keys: Array | None = None) -> Denoise: ...

    def ode(self, params: Params) -> likelihood.ODE: ...

    def chain(self, params: Params, cond: Any, num_steps: int) -> Chain: ...


def sampler(model: Continuous) -> Callable[..., Any]:
    """`Method.sample` as `sampling.sampler` names it: by the steps of a chain, or by a solver's."""
    return adaptive(model) if model.config.sampling.sampler == "adaptive" else chains.sampler(model.chain)


def adaptive(model: Continuous) -> Callable[..., tuple[Array, Array, Array]]:
    """`Method.sample` with errors of a step below `sampling.tolerance`, guided and clipped as other samplers are.

    Of the chain it takes the ends and, as states that may be kept, the levels.
    """

    def sample(
        params: Params, keys: Array, cond: Any, num_steps: int, keep: Sequence[int] = ()
    ) -> tuple[Array, Array, Array]:
        chain, denoise = model.chain(params, cond, num_steps), model.denoise(params)

        def predict(z: Array, level: Noise, cond: Any) -> Prediction:
            return conditioning.predictor(model.config, denoise, model.split, cond)(z, level)

        ode = model.ode(params)._replace(predict=predict, tolerance=model.config.sampling.tolerance)
        first, levels = chain.steps.frm.gamma[0], chain.steps.to.gamma
        seen = levels[np.asarray(keep, int)]
        z, path, evaluations = likelihood.travel(ode, chain.start(keys), cond, first, levels[-1], seen)
        solved = jnp.all(jnp.isfinite(z), axis=tuple(range(1, z.ndim)))
        return chain.end(z, keys), chain.shown(path, keep), jnp.where(solved, evaluations + chain.ending, 0)

    return sample


def check_solved(config: ConfigDict, *evaluations: np.ndarray) -> None:
    """Raise UserError if a sampler's evaluations, [N] where it tells them, say that an image found no way."""
    failed = sum(int(np.sum(counts == 0)) for counts in evaluations)
    if failed:
        raise UserError(
            f"config.sampling.sampler='adaptive' found no way for {failed} of {sum(map(len, evaluations))} samples at "
            f"config.sampling.tolerance={config.sampling.tolerance:g}: the network is not finite there, or too rough; "
            "set a larger tolerance, or sampler='heun'"
        )
