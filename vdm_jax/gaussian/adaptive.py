"""Sampling with an adaptive solver of the probability-flow ODE (Song et al. 2021, §4.3 and appendix D.4).

Every image is solved separately, so it does not depend on the rest of its batch. A batch takes as long as its slowest
image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jax import Array

from vdm_jax.core import chain as chains
from vdm_jax.core.chain import Chain
from vdm_jax.core.method import Params
from vdm_jax.diffusion import likelihood, samplers
from vdm_jax.diffusion.prediction import Denoise, Prediction
from vdm_jax.diffusion.process import Noise
from vdm_jax.fields import ANY_TIME, Component, Field
from vdm_jax.gaussian.base import Sampler
from vdm_jax.gaussian.sampling import ADAPTIVE

COMPONENTS = (
    Component(
        {
            "sampling.tolerance": Field(
                1e-5,
                "relative and absolute error of one step of the sampler 'adaptive'",
                low=2e-6,
                high=0.1,
                resume=ANY_TIME,
            )
        },
        {"sampling.sampler": ("adaptive",)},
    ),
)


class Flow(Protocol):
    """The functions of a diffusion that `adaptive` uses."""

    @property
    def sampler(self) -> Sampler: ...

    def denoise(self, params: Params, keys: Array | None = None) -> Denoise: ...

    def predictor(self, denoise: Denoise, cond: Any) -> samplers.Predict: ...

    def ode(self, params: Params) -> likelihood.ODE: ...

    def chain(self, params: Params, cond: Any, num_steps: int) -> Chain: ...


def sampler(model: Flow) -> Callable[..., Any]:
    """Return `Method.sample` of the model: the adaptive solver, or the steps of its chain."""
    return adaptive(model) if model.sampler.name == ADAPTIVE else chains.sampler(model.chain)


def adaptive(model: Flow) -> Callable[..., tuple[Array, Array, Array]]:
    """Return `Method.sample` with an adaptive solver; guidance and clipping apply as for other samplers.

    The model's chain defines the first and the last noise level, the decoder, and the noise levels of the states that
    can be kept.

    Returns:
        (params, keys [b], cond, num_steps, keep) → samples [b, …], states [K, b, …], and the number of network
        evaluations [b], which is 0 for images on which the solver failed.
    """

    def sample(
        params: Params, keys: Array, cond: Any, num_steps: int, keep: Sequence[int] = ()
    ) -> tuple[Array, Array, Array]:
        chain, denoise = model.chain(params, cond, num_steps), model.denoise(params)

        def predict(z: Array, level: Noise, cond: Any) -> Prediction:
            return model.predictor(denoise, cond)(z, level)

        ode = model.ode(params)._replace(predict=predict, tolerance=model.sampler.tolerance)
        first, levels = chain.steps.frm.gamma[0], chain.steps.to.gamma
        kept = levels[np.asarray(keep, int)]
        z, path, evaluations = likelihood.travel(ode, chain.start(keys), cond, first, levels[-1], kept)
        solved = jnp.all(jnp.isfinite(z), axis=tuple(range(1, z.ndim)))
        return chain.end(z, keys), chain.visualize(path, keep), jnp.where(solved, evaluations + chain.final_nfe, 0)

    return sample
