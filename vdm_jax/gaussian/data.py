"""How data become f, what α_t is a factor of, and back: a softmax over values at γ(0), or dequantization.

Each says what it adds to the bound on −log p(x), and to that of the probability flow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from vdm_jax.core.method import Params, Terms
from vdm_jax.diffusion import decoders, dequantisation, likelihood, losses
from vdm_jax.diffusion.process import Noise, expand
from vdm_jax.diffusion.samplers import Predict
from vdm_jax.diffusion.sde_steps import denoised
from vdm_jax.keys import fold, normal_like

# (params, x, keys [B]) → f [B, …] and log q(u|x) [B]
Dequantize = Callable[[Params, Array, Array], tuple[Array, Array]]


class Data(Protocol):
    """The decoder's side of a diffusion; keys are those of an example, [B]."""

    def encode(self, x: Array) -> Array:
        """Data → f."""

    def dequantized(self, params: Params, x: Array, keys: Array) -> tuple[Array, Terms]:
        """f, and what drawing it adds to the bound, in nats [B]."""

    def reconstruction(self, x: Array, f: Array, keys: Array, level: Noise, gamma_0: Array) -> Array:
        """E −log p(x or f | z_0) at the level γ(0), nats [B]; gamma_0: that of the schedule, a constant if fixed."""

    def flow(self, ode: likelihood.ODE, params: Params, x: Array, cond: Any, keys: Array, rule: Any) -> Terms:
        """The terms of the flow's bound in nats, and its 'evaluations', [B]."""

    def decode(self, z: Array, level: Noise, keys: Array | None = None) -> Array:
        """z at a level → data; drawn from p(x|z) with keys, else the most likely."""

    def last(self, predict: Predict, z: Array, level: Noise, keys: Array) -> Array:
        """z after the last step of a sampler → data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Softmax:
    """p(x|z_0) ∝ N(z_0; α_0 f(x), σ_0² I) over the values of a pixel (VDM, §3.3).

    noise, probe, decoding: purposes of keys. draw: whether samples are drawn from p(x|z_0).
    """

    shape: tuple[int, ...]
    vocabulary: int | None
    noise: int
    probe: int
    decoding: int
    draw: bool = False

    def encode(self, x: Array) -> Array:
        return decoders.encode(x, self.vocabulary)

    def dequantized(self, params: Params, x: Array, keys: Array) -> tuple[Array, Terms]:
        return self.encode(x), {}

    def reconstruction(self, x: Array, f: Array, keys: Array, level: Noise, gamma_0: Array) -> Array:
        eps = normal_like(keys, self.shape, self.noise)
        return losses.reconstruction(x, f, eps, level, self.vocabulary)

    def flow(self, ode: likelihood.ODE, params: Params, x: Array, cond: Any, keys: Array, rule: Any) -> Terms:
        eps = normal_like(keys, self.shape, self.noise)
        return likelihood.bound(ode, x, eps, cond, fold(keys, self.probe), self.vocabulary, rule)

    def decode(self, z: Array, level: Noise, keys: Array | None = None) -> Array:
        return decoders.decode(z, level, self.vocabulary, keys)

    def last(self, predict: Predict, z: Array, level: Noise, keys: Array) -> Array:
        return self.decode(z, level, fold(keys, self.decoding) if self.draw else None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dequantized:
    """Values uniform in their bins of [−1, 1], and a Gaussian p(f|z_0) whose mean over ε is known.

    noise, probe: purposes of keys. dequantize: another q(u|x) than the uniform one. denoise: whether a sample is x̂ of
    the last level, one more call of the network.
    """

    shape: tuple[int, ...]
    vocabulary: int | None
    noise: int
    probe: int
    denoise: bool = True
    dequantize: Dequantize | None = None

    def encode(self, x: Array) -> Array:
        """Centers of bins."""
        return dequantisation.dequantise(x, jnp.asarray(0.5), self.vocabulary)

    def uniform(self, keys: Array) -> Array:
        """Noise of U[0, 1) for every number, [b, …]."""
        draw = lambda k: jax.random.uniform(jax.random.fold_in(k, self.noise), self.shape)
        return jax.vmap(draw)(keys)

    def drawn(self, params: Params, x: Array, keys: Array) -> tuple[Array, Array]:
        """f [b, …] and log q(u|x) [b]."""
        if self.dequantize is not None:
            return self.dequantize(params, x, self.uniform(keys))
        return dequantisation.dequantise(x, self.uniform(keys), self.vocabulary), jnp.zeros(len(x))

    def dequantized(self, params: Params, x: Array, keys: Array) -> tuple[Array, Terms]:
        f, log_q = self.drawn(params, x, keys)
        return f, self._bins(log_q)

    def _bins(self, log_q: Array) -> Terms:
        """log q(u|x) and the width of the bins that f was drawn from."""
        return {"dequantisation": log_q + dequantisation.bin_nats(math.prod(self.shape), self.vocabulary)}

    def reconstruction(self, x: Array, f: Array, keys: Array, level: Noise, gamma_0: Array) -> Array:
        exact = 0.5 * math.prod(self.shape) * (1 + math.log(2 * math.pi) + gamma_0)
        return jnp.full(len(f), exact)

    def flow(self, ode: likelihood.ODE, params: Params, x: Array, cond: Any, keys: Array, rule: Any) -> Terms:
        """−log P(x) ≤ E_u[−log p(f)] − D log w, one u for each key (Song et al. 2021, §4.3)."""
        f, log_q = self.drawn(params, x, keys)
        log_p, _, evaluations = likelihood.log_prob(ode, f, cond, fold(keys, self.probe), rule)
        return {"flow": -log_p, **self._bins(log_q), "evaluations": evaluations}

    def decode(self, z: Array, level: Noise, keys: Array | None = None) -> Array:
        return dequantisation.quantise(z / expand(level.alpha, z.ndim), self.vocabulary)

    def last(self, predict: Predict, z: Array, level: Noise, keys: Array) -> Array:
        x = denoised(predict, z, level) if self.denoise else z / expand(level.alpha, z.ndim)
        return dequantisation.quantise(x, self.vocabulary)
