"""Encoders and decoders of data: a softmax over pixel values at γ(0), or dequantization.

They map data to f, the clean signal in z_t = α_t f + σ_t ε, and back. Each defines its terms of the variational bound
on −log p(x) and of the bound from the probability flow.
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
from vdm_jax.diffusion import decoders, dequantization, likelihood, losses
from vdm_jax.diffusion.process import Noise, expand
from vdm_jax.diffusion.samplers import Predict
from vdm_jax.diffusion.sde_steps import denoised
from vdm_jax.keys import fold, normal_like

# (params, x, uniform noise u [B, …]) → f [B, …] and log q(u|x) [B]
Dequantize = Callable[[Params, Array, Array], tuple[Array, Array]]


class Data(Protocol):
    """The encoder and decoder of a diffusion; keys are one key per example, [B]."""

    def encode(self, x: Array) -> Array:
        """Map data to f."""

    def dequantized(self, params: Params, x: Array, keys: Array) -> tuple[Array, Terms]:
        """Draw f, and return it with the terms that this adds to the bound, in nats [B]."""

    def reconstruction(self, x: Array, f: Array, keys: Array, level: Noise, gamma_0: Array) -> Array:
        """Return the reconstruction term at γ(0), E[−log p(x|z_0)] or E[−log p(f|z_0)], in nats [B].

        level is the noise level at γ(0); gamma_0 is the schedule's endpoint, a constant if the schedule is fixed.
        """

    def flow(self, ode: likelihood.ODE, params: Params, x: Array, cond: Any, keys: Array, rule: Any) -> Terms:
        """Return the terms of the flow's bound in nats, and its network 'evaluations', [B]."""

    def decode(self, z: Array, level: Noise, keys: Array | None = None) -> Array:
        """Decode z at a noise level: a draw from p(x|z) with keys, else its mode."""

    def last(self, predict: Predict, z: Array, level: Noise, keys: Array) -> Array:
        """Decode z after the last step of a sampler."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Softmax:
    """p(x|z_0) ∝ N(z_0; α_0 f(x), σ_0² I) over the values of a pixel (VDM, §3.3).

    Attributes:
        shape: The shape of one example.
        vocabulary: The number of values of a pixel; None for continuous data.
        noise: The number that keys are folded with for the noise of z_0.
        probe: The number that keys are folded with for Hutchinson's probes.
        decoding: The number that keys are folded with for draws from p(x|z_0).
        draw: Whether samples are drawn from p(x|z_0).
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
    """Dequantization within the bins of [−1, 1], and a Gaussian p(f|z_0) whose expectation over ε is closed-form.

    Attributes:
        shape: The shape of one example.
        vocabulary: The number of values of a pixel; None for continuous data.
        noise: The number that keys are folded with for dequantization noise.
        probe: The number that keys are folded with for Hutchinson's probes.
        denoise: Whether a sample is x̂ at the last noise level, which takes one more evaluation of the network.
        dequantize: A learned q(u|x); None for uniform dequantization.
    """

    shape: tuple[int, ...]
    vocabulary: int | None
    noise: int
    probe: int
    denoise: bool = True
    dequantize: Dequantize | None = None

    def encode(self, x: Array) -> Array:
        """Map data to the centers of their bins."""
        return dequantization.dequantize(x, jnp.asarray(0.5), self.vocabulary)

    def uniform(self, keys: Array) -> Array:
        """Draw dequantization noise from U[0, 1), [b, …]."""
        draw = lambda k: jax.random.uniform(jax.random.fold_in(k, self.noise), self.shape)
        return jax.vmap(draw)(keys)

    def drawn(self, params: Params, x: Array, keys: Array) -> tuple[Array, Array]:
        """Draw f [b, …], and return it with log q(u|x) [b] in nats."""
        if self.dequantize is not None:
            return self.dequantize(params, x, self.uniform(keys))
        return dequantization.dequantize(x, self.uniform(keys), self.vocabulary), jnp.zeros(len(x))

    def dequantized(self, params: Params, x: Array, keys: Array) -> tuple[Array, Terms]:
        f, log_q = self.drawn(params, x, keys)
        return f, self._bins(log_q)

    def _bins(self, log_q: Array) -> Terms:
        """Return the dequantization term: log q(u|x) minus the log-volume of a bin, in nats [b]."""
        return {"dequantization": log_q + dequantization.bin_nats(math.prod(self.shape), self.vocabulary)}

    def reconstruction(self, x: Array, f: Array, keys: Array, level: Noise, gamma_0: Array) -> Array:
        exact = 0.5 * math.prod(self.shape) * (1 + math.log(2 * math.pi) + gamma_0)
        return jnp.full(len(f), exact)

    def flow(self, ode: likelihood.ODE, params: Params, x: Array, cond: Any, keys: Array, rule: Any) -> Terms:
        """Compute the terms of −log P(x) ≤ E_u[−log p(f)] − D log w with one u per key (Song et al. 2021, §4.3)."""
        f, log_q = self.drawn(params, x, keys)
        log_p, _, evaluations = likelihood.log_prob(ode, f, cond, fold(keys, self.probe), rule)
        return {"flow": -log_p, **self._bins(log_q), "evaluations": evaluations}

    def decode(self, z: Array, level: Noise, keys: Array | None = None) -> Array:
        return dequantization.quantize(z / expand(level.alpha, z.ndim), self.vocabulary)

    def last(self, predict: Predict, z: Array, level: Noise, keys: Array) -> Array:
        x = denoised(predict, z, level) if self.denoise else z / expand(level.alpha, z.ndim)
        return dequantization.quantize(x, self.vocabulary)
