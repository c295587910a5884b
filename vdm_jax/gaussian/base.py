"""The base class of Gaussian diffusions: conditioning, conversion of the network's output, guidance, thresholding."""

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
    """The settings of the `sampling` section; settings that a step rule does not use keep their defaults.

    Attributes:
        name: The name of the step rule.
        num_steps: The number of steps of the chain.
        interval: (γ_min, γ_max) within which guidance acts; None for everywhere.
        clip: Whether x̂ is bounded to [−1, 1].
        percentile: The percentile of |x̂| for dynamic thresholding; 0 for static clipping.
        eta: η of DDIM.
        variance_mix: w in the log-variance of an ancestral step.
        corrector_steps: The number of Langevin steps per noise level.
        snr: The signal-to-noise ratio r of Langevin steps.
        tolerance: The error per step of the 'adaptive' solver.
        draw: Whether samples are drawn from p(x|z_0) instead of taking its mode.
        denoise: Whether the chain of an SDE ends with x̂.
        t_min: The SDE's time at which its chain ends.
        respacing: Which noise levels of a table are visited.
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
        """Return the wrapper of the denoiser that bounds x̂; None if x̂ is not clipped."""
        if not self.clip:
            return None
        if self.percentile:
            return lambda predict: thresholds.dynamic(predict, self.percentile)
        return thresholds.static


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Gaussian:
    """A diffusion of data of one shape. Instances are compared by identity, so they can be keys of a jit cache.

    Attributes:
        shape: The shape of one example.
        vocabulary: The number of values of a pixel; None for continuous data.
        conditions: What the network is conditioned on.
        network: (params, dropout keys [B] or None, z, level, cond) → raw output.
        init_network: key → params of the network.
        target: What the network predicts, one of `prediction.KINDS`.
        sampler: The settings of the `sampling` section.
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
        """Number of dimensions of one example."""
        return math.prod(self.shape)

    def encode(self, x: Array) -> Array:
        """Map data to f, the clean signal in z_t = α_t f + σ_t ε."""
        raise NotImplementedError

    def denoise(self, params: Params, keys: Array | None = None) -> prediction.Denoise:
        """Return the function (z, level, cond) → raw output; keys [B] switch dropout on."""
        return lambda z, level, cond: self.network(params, keys, z, level, cond)

    def split(self, raw: Array, z: Array, level: Noise) -> prediction.Prediction:
        """Convert the raw output to x̂, ε̂ and the head of a learned variance."""
        return prediction.split(raw, z, level, self.target)

    def cond_of(self, batch: Batch, drop_keys: Array | None = None) -> Cond:
        """Return the condition values of a batch; drop_keys [B] are passed in training, to drop conditions."""
        return conditioning.of_batch(self.conditions, batch, self.encode, drop_keys)

    def predictor(self, denoise: prediction.Denoise, cond: Any) -> samplers.Predict:
        """Return the denoiser (z, level) → Prediction of a sampler, guided if cond is `Guided`, then thresholded."""
        return predictor(denoise, self.split, cond, self.conditions, self.sampler.interval, self.sampler.threshold())

    def in_bits(self, nats: Mapping[str, Array]) -> Terms:
        """Convert terms [B] from nats to bits/dim and add their sum as 'total'."""
        bits = {name: losses.bits_per_dim(value, self.dimensions) for name, value in nats.items()}
        return {**bits, "total": sum(bits.values(), jnp.zeros(()))}
