"""Discrete noise schedules: a table of T noise levels made from β, and the subset that a sampler visits.

    ᾱ_ℓ = Π_{k ≤ ℓ} (1 − β_k),      γ_ℓ = log((1 − ᾱ_ℓ)/ᾱ_ℓ) = log expm1(−log ᾱ_ℓ),      ℓ = 1 … T

Level 0 is the data itself: γ = −∞, α = 1, σ = 0 and γ_1 − γ_0 = ∞, where the formulas of `process` remain valid.
All columns are computed in float64 on the host; γ_ℓ − γ_{ℓ−1} is a separate column, since the difference of two
float32 γ is wrong in its last digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from vdm_jax.diffusion.process import Noise, noise
from vdm_jax.diffusion.samplers import Transition
from vdm_jax.fields import Component, Field, Given, demand


def _check_betas(given: Given) -> None:
    low, high = given["schedule.beta_min"], given["schedule.beta_max"]
    demand(
        low <= high,
        f"config.schedule.beta_min={low:g} must not exceed config.schedule.beta_max={high:g}: noise grows with t",
    )
    demand(
        high < given["schedule.num_timesteps"],
        f"config.schedule.num_timesteps={given['schedule.num_timesteps']} must exceed "
        f"config.schedule.beta_max={high:g}: the last beta is beta_max over it and must be less than 1",
    )


def _check_vp_betas(given: Given) -> None:
    low, high = given["schedule.beta_min"], given["schedule.beta_max"]
    demand(low <= high, f"config.schedule.beta_min={low:g} must not exceed config.schedule.beta_max={high:g}")


_NUM_TIMESTEPS = Field(1000, "number T of noise levels", low=1, high=2**20, decisive=True, exclusive=True)
COMPONENTS = (
    Component(
        {
            "schedule.num_timesteps": _NUM_TIMESTEPS,
            "schedule.beta_min": Field(0.1, "T times beta_1", low=1e-6, decisive=True),
            "schedule.beta_max": Field(20.0, "T times beta_T", low=1e-6, decisive=True),
        },
        {"schedule.kind": ("ddpm_linear",)},
        _check_betas,
    ),
    Component({"schedule.num_timesteps": _NUM_TIMESTEPS}, {"schedule.kind": ("ddpm_cosine",)}),
    Component(
        {
            "schedule.step_variance": Field(0.02, "sigma^2 of every step", low=1e-6, high=0.999, decisive=True),
            "schedule.remaining": Field(
                0.01, "the table ends where alpha falls below this; it sets T", low=1e-6, high=0.999, decisive=True
            ),
        },
        {"schedule.kind": ("constant_sigma",)},
    ),
    Component(
        {
            "schedule.num_timesteps": _NUM_TIMESTEPS,
            "schedule.beta_min": Field(0.1, "beta(0) of the VP SDE", low=1e-6, decisive=True),
            "schedule.beta_max": Field(20.0, "beta(1) of the VP SDE", low=1e-6, decisive=True),
            "schedule.t_min": Field(1e-5, "time t of level 0", low=1e-7, high=0.1, decisive=True),
        },
        {"schedule.kind": ("ddgan_vp",)},
        _check_vp_betas,
    ),
)

MAX_BETA = 0.999


def linear_betas(num_levels: int, low: float = 0.1, high: float = 20.0) -> np.ndarray:
    """Return β from low/T to high/T in equal steps, float64 [T].

    This is DDPM's 10⁻⁴ … 0.02 at T = 1000 (Ho et al. 2020), scaled by 1000/T for other T (Nichol & Dhariwal 2021).
    It needs T > high, so that β_T < 1.
    """
    return np.linspace(low / num_levels, high / num_levels, num_levels, dtype=np.float64)


def cosine_betas(num_levels: int, offset: float = 0.008) -> np.ndarray:
    """Return β_ℓ = min(1 − ᾱ_ℓ/ᾱ_{ℓ−1}, .999), ᾱ_ℓ ∝ cos²(½π (ℓ/T + s)/(1 + s)) (Nichol & Dhariwal 2021, eq. 17)."""
    t = np.arange(num_levels + 1, dtype=np.float64) / num_levels
    alpha_bar = np.square(np.cos((t + offset) / (1 + offset) * math.pi / 2))
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], MAX_BETA)


def constant_levels(step_variance: float, remaining: float) -> int:
    """Return L = ⌊ln δ/ln α⌋ + 1, the fewest steps of variance σ² with α^L < δ; α = √(1 − σ²), δ = remaining."""
    log_alpha = 0.5 * math.log1p(-step_variance)
    return math.floor(math.log(remaining) / log_alpha) + 1


def constant_betas(step_variance: float, remaining: float) -> np.ndarray:
    """Return σ² for each of `constant_levels` steps, float64 [L]."""
    return np.full(constant_levels(step_variance, remaining), step_variance, np.float64)


def betas(
    kind: str,
    *,
    num_timesteps: int = 1000,
    beta_min: float = 0.1,
    beta_max: float = 20.0,
    step_variance: float = 0.02,
    remaining: float = 0.01,
) -> np.ndarray:
    """Return β of all levels, float64 [T], for the kind 'ddpm_linear', 'ddpm_cosine' or 'constant_sigma'."""
    if kind == "ddpm_linear":
        return linear_betas(num_timesteps, beta_min, beta_max)
    return cosine_betas(num_timesteps) if kind == "ddpm_cosine" else constant_betas(step_variance, remaining)


def vp_betas(num_levels: int, low: float = 0.1, high: float = 20.0, t_min: float = 1e-3) -> np.ndarray:
    """Return β_i = 1 − e^{B(t_{i−1}) − B(t_i)} of the VP SDE in T large steps, float64 [T] (Xiao et al. 2022, app. B).

    t_i = t_min + (1 − t_min) i/T, i = 0 … T; B(t) = low t + ½ (high − low) t². The noise of the SDE at t_0 is
    omitted: level 0 is the data.
    """
    t = t_min + (1 - t_min) * np.arange(num_levels + 1, dtype=np.float64) / num_levels
    return -np.expm1(-np.diff(t * (low + 0.5 * (high - low) * t)))


class Table(NamedTuple):
    """Noise levels 1 … T of a chain, or the subset that a sampler visits; every field is [T].

    Attributes:
        gamma: γ_ℓ.
        delta: γ_ℓ − γ_{ℓ−1}, ∞ at ℓ = 1.
        time_input: Time input of the network at each level.
        floor: Value that replaces log β̃ = −∞ at ℓ = 1: log β̃ of level 2, or log β_1 if T = 1.
    """

    gamma: Array
    delta: Array
    time_input: Array
    floor: Array

    @property
    def num_levels(self) -> int:
        """Return T."""
        return len(self.gamma)

    def level(self, index: Array) -> Noise:
        """Return the noise level ℓ = index + 1; index: int [B], 0 … T − 1."""
        return noise(self.gamma[index], self.time_input[index])

    def at(self, index: Array) -> Transition:
        """Return the step ℓ → ℓ − 1 for ℓ = index + 1; index: int [B]. `number` counts from the last level."""
        below = jnp.where(index == 0, -jnp.inf, self.gamma[index - 1])
        to = noise(below, jnp.where(index == 0, 0.0, self.time_input[index - 1]))
        return Transition(self.level(index), to, self.delta[index], self.num_levels - 1 - index, self.floor[index])

    def reverse(self) -> Transition:
        """Return all steps from the last noise level to the data, [T]."""
        return self.at(jnp.arange(self.num_levels)[::-1])


def from_betas(betas: np.ndarray, time_input: np.ndarray | None = None) -> Table:
    """Make the table of a chain with steps q(z_ℓ|z_{ℓ−1}) = N(√(1 − β_ℓ) z_{ℓ−1}, β_ℓ I).

    Args:
        betas: β_ℓ in (0, 1), [T].
        time_input: Time inputs of the network, [T]; by default the indices 0 … T − 1.

    Raises:
        ValueError: A β is not in (0, 1).
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or len(betas) == 0 or not np.all((betas > 0) & (betas < 1)):
        raise ValueError("every beta must be between 0 and 1")
    gamma = gammas(betas)
    # γ_ℓ − γ_{ℓ−1} = log((1 − ᾱ_ℓ)/(1 − ᾱ_{ℓ−1})) − log(1 − β_ℓ), and 1 − ᾱ_ℓ = 1 − ᾱ_{ℓ−1} + ᾱ_{ℓ−1} β_ℓ
    log_alpha_bar = np.cumsum(np.log1p(-betas))
    rest = -np.expm1(log_alpha_bar)
    growth = np.log1p(np.exp(log_alpha_bar[:-1]) * betas[1:] / rest[:-1])
    delta = np.concatenate([[np.inf], growth - np.log1p(-betas[1:])])
    floor = math.log(betas[1] * rest[0] / rest[1]) if len(betas) > 1 else math.log(betas[0])
    time_input = np.arange(len(betas)) if time_input is None else np.asarray(time_input)
    as_array = lambda a: jnp.asarray(a, jnp.result_type(float))
    return Table(as_array(gamma), as_array(delta), as_array(time_input), as_array(np.full(len(betas), floor)))


def gammas(betas: np.ndarray) -> np.ndarray:
    """Return γ_ℓ = log expm1(−Σ log(1 − β_k)), float64 [T]."""
    minus_log_alpha_bar = -np.cumsum(np.log1p(-np.asarray(betas, np.float64)))
    # log expm1(y) = y + log(1 − e^{−y}), which does not overflow
    return minus_log_alpha_bar + np.log(-np.expm1(-minus_log_alpha_bar))


def merge(betas: np.ndarray, indices: Sequence[int]) -> np.ndarray:
    """Return β = 1 − ᾱ_i/ᾱ_previous of the chain that visits only the S levels `indices` (ascending, from 0), [S]."""
    log_alpha_bar = np.cumsum(np.log1p(-np.asarray(betas, np.float64)))[np.asarray(indices)]
    return -np.expm1(np.diff(log_alpha_bar, prepend=0.0))


def spaced(num_levels: int, spacing: str) -> list[int]:
    """Parse a respacing of T levels and return the indices 0 … T − 1 to visit, ascending (Improved DDPM).

    Args:
        num_levels: T.
        spacing: One of:
            'N' or 'N1,N2,…': the levels are split into sections of nearly equal length. Section i contributes N_i
            indices at equal (fractional) strides from its first to its last index, rounded half to even.
            'ddimN': the smallest integer stride from 0 that visits N levels.
            'evenN': the last index of each of N equal sections; the indices of N are a subset of those of 2N.

    Raises:
        ValueError: The spacing cannot be parsed or is impossible for T levels.
    """
    if spacing.startswith("ddim"):
        visited = _count(spacing[4:], spacing)
        for stride in range(1, num_levels):
            if len(range(0, num_levels, stride)) == visited:
                return list(range(0, num_levels, stride))
        raise ValueError(f"{spacing!r}: no integer stride visits exactly {visited} of {num_levels} levels")
    if spacing.startswith("even"):
        visited = _count(spacing[4:], spacing)
        if visited > num_levels:
            raise ValueError(f"{spacing!r}: there are {num_levels} levels")
        return [(k + 1) * num_levels // visited - 1 for k in range(visited)]
    counts = [_count(part, spacing) for part in spacing.split(",")]
    length, extra = divmod(num_levels, len(counts))
    indices: list[int] = []
    first = 0
    for section, count in enumerate(counts):
        size = length + int(section < extra)
        if count > size:
            raise ValueError(f"{spacing!r}: a section of {size} levels cannot be visited at {count} of them")
        step, place = (size - 1) / max(count - 1, 1), 0.0
        for _ in range(count):  # summed as in the originals, so that halves round the same way
            indices.append(first + round(place))
            place += step
        first += size
    return sorted(set(indices))


def _count(text: str, spacing: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"{spacing!r} is not of the form '250', '10,10,3,2,2', 'ddim50' or 'even4'")
    return int(text)


class Steps(NamedTuple):
    """γ(t) of a table as a step function, for plots: level ℓ = ⌈t T⌉ on ((ℓ − 1)/T, ℓ/T]."""

    table: Table

    def _index(self, t: Array) -> Array:
        count = self.table.num_levels
        return jnp.clip(jnp.ceil(t * count).astype(jnp.int32), 1, count) - 1

    def gamma(self, t: Array) -> Array:
        """Return γ_ℓ."""
        return self.table.gamma[self._index(t)]

    def dgamma(self, t: Array) -> Array:
        """Return T (γ_ℓ − γ_{ℓ−1}); at ℓ = 1, where it is ∞, the value of ℓ = 2."""
        count = self.table.num_levels
        return count * self.table.delta[jnp.maximum(self._index(t), min(1, count - 1))]
