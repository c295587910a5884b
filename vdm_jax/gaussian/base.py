"""What every Gaussian diffusion does with a network: condition it, convert its output, guide and threshold it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from vdm_jax import conditioning
from vdm_jax.conditioning import Cond, Conditions
from vdm_jax.conditioning.sampling import Interval, predictor
from vdm_jax.core.method import Batch, Params, Terms
from vdm_jax.diffusion import losses, prediction, samplers, thresholds
from vdm_jax.diffusion.process import Noise

# (params, keys [B] of dropout or None, z, level, cond) → raw output
Network = Callable[[Params, Array | None, Array, Noise, Cond], Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """The choices of `sampling`; of those that a step rule does not know the default is kept.

    name: of the step rule. num_steps: of the chain. interval: (γ_min, γ_max) of guidance, None for everywhere.
    clip, percentile: of x̂, statically or dynamically. variance_mix: w of an ancestral step's log-variance.
    corrector_steps, snr: of Langevin steps. tolerance: of 'adaptive'. draw: from p(x|z_0), not its mode.
    denoise, t_min: how the chain of an SDE ends, and where. respacing: of a table.
    """

    name: str = "ancestral"
    num_steps: int = 250
    interval: Interval | None = None
    clip: bool = False
    percentile: float = 0.0
    eta: float = 0.0
    variance_mix: float = 0.0
    corrector_steps: int = 1
    snr: float = 0.16
    tolerance: float = 1e-5
    draw: bool = False
    denoise: bool = True
    t_min: float = 0.0
    respacing: str = ""

    def threshold(self) -> Callable[[samplers.Predict], samplers.Predict] | None:
        """What wraps the denoiser to bound x̂."""
        if not self.clip:
            return None
        if self.percentile:
            return lambda predict: thresholds.dynamic(predict, self.percentile)
        return thresholds.static


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Gaussian:
    """A diffusion of data of one shape. Compared by identity, for caches of what is compiled.

    vocabulary: values of a number of the data; None for continuous data. target: what the network predicts, one of
    `prediction.KINDS`. sampler: the choices of `sampling`.
    """

    shape: tuple[int, ...]
    vocabulary: int | None
    conditions: Conditions
    network: Network
    init_network: Callable[[Array], Params]
    target: str
    sampler: Sampler

    @property
    def dimensions(self) -> int:
        """Of one example."""
        return math.prod(self.shape)

    def encode(self, x: Array) -> Array:
        """Data → f, what α_t is a factor of, on the scale of clean data."""
        raise NotImplementedError

    def denoise(self, params: Params, keys: Array | None = None) -> prediction.Denoise:
        """(z, level, cond) → raw output; keys [B] switch dropout on."""
        return lambda z, level, cond: self.network(params, keys, z, level, cond)

    def split(self, raw: Array, z: Array, level: Noise) -> prediction.Prediction:
        """Raw output → (x̂, ε̂, the head of a learned variance)."""
        return prediction.split(raw, z, level, self.target)

    def cond_of(self, batch: Batch, drop_keys: Array | None = None) -> Cond:
        """What the network is conditioned on; drop_keys [B] in training."""
        return conditioning.of_batch(self.conditions, batch, self.encode, drop_keys)

    def predictor(self, denoise: prediction.Denoise, cond: Any) -> samplers.Predict:
        """What a sampler's steps call: guided if cond is `Guided`, then clipped."""
        return predictor(denoise, self.split, cond, self.conditions, self.sampler.interval, self.sampler.threshold())

    def in_bits(self, nats: Mapping[str, Array]) -> Terms:
        """Terms [B] in bits/dim, with their 'total'."""
        bits = {name: losses.bits_per_dim(value, self.dimensions) for name, value in nats.items()}
        return {**bits, "total": sum(bits.values(), jnp.zeros(()))}
