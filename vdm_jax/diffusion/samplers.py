"""Samplers: a time grid and a step rule, run by one `lax.scan`.

A step gets the transition t → s as two noise levels and δ = γ_t − γ_s. Noise is keyed per image:
image k of a seed gets the same noise for every batch size and number of devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vdm_jax.diffusion.prediction import Denoise, Prediction
from vdm_jax.diffusion.process import VP, Noise, Process, expand, flow, posterior_deviation, posterior_of_x
from vdm_jax.diffusion.schedules import Schedule
from vdm_jax.fields import ANY_TIME, Component, Field

COMPONENTS = (
    Component(
        {"sampling.eta": Field(0.0, "noise of DDIM: 0 none, 1 ancestral", low=0.0, high=1.0, resume=ANY_TIME)},
        {"sampling.sampler": ("ddim",)},
    ),
)


class Transition(NamedTuple):
    """One step of the reverse process, t → s; every field is a scalar array, [B], or [N] for a complete grid.

    Attributes:
        frm: The noise level t.
        to: The noise level s.
        delta: γ_t − γ_s > 0, ∞ where s is the data itself.
        number: Index of the step, 0 at t = 1.
        floor: Value that replaces the log of the posterior variance σ_Q² where s is the data and it is −∞.
    """

    frm: Noise
    to: Noise
    delta: Array
    number: Array
    floor: Array


# (keys [B], carry, transition) → carry
Step = Callable[[Array, Any, Transition], Any]
# z [B, …], level (scalar fields) → Prediction
Predict = Callable[[Array, Noise], Prediction]


def uniform_grid(num_steps: int) -> np.ndarray:
    """Return t from 1 to 0 in equal steps, float64 [num_steps + 1]."""
    return np.linspace(1.0, 0.0, num_steps + 1)


def transitions(
    schedule: Schedule,
    grid: np.ndarray,
    level_of: Callable[[Array], Noise],
) -> Transition:
    """Make the steps of a time grid; t − s is computed in float64 on the host.

    Args:
        schedule: γ(t).
        grid: Strictly decreasing times, [N + 1].
        level_of: γ → Noise, with t in the units of the network.

    Returns:
        The transitions, with fields of shape [N].

    Raises:
        ValueError: The grid does not decrease or has fewer than two points.
    """
    grid = np.asarray(grid, np.float64)
    if grid.ndim != 1 or len(grid) < 2 or not np.all(np.diff(grid) < 0):
        raise ValueError("a time grid must decrease strictly from t = 1 towards 0 and have at least two points")
    t = jnp.asarray(grid, jnp.result_type(float))
    levels = level_of(schedule.gamma(t))
    delta = schedule.delta(t[:-1], jnp.asarray(-np.diff(grid), t.dtype))
    first = jax.tree.map(lambda a: a[:-1], levels)
    second = jax.tree.map(lambda a: a[1:], levels)
    return Transition(first, second, delta, jnp.arange(len(grid) - 1), jnp.full_like(delta, -jnp.inf))


def run(step: Step, carry: Any, keys: Array, steps: Transition, keep: Sequence[int] = ()) -> tuple[Any, Any]:
    """Run all steps in one scan.

    Args:
        step: The step rule.
        carry: Initial carry, a pytree of [B, …].
        keys: One random key per image, [B]; each step folds in its number.
        steps: Transitions with fields of shape [N].
        keep: Ascending indices of K steps whose carries are returned. No other carries are stored.

    Returns:
        (last carry, kept carries [K, …]).
    """
    # Each step overwrites the slot of the next kept step; the extra last slot takes the steps after the last kept one.
    places = jnp.asarray(np.searchsorted(np.asarray(keep, int), np.arange(len(steps.number))))

    def body(state: tuple[Any, Any], now: tuple[Transition, Array]) -> tuple[tuple[Any, Any], None]:
        (carry, kept), (transition, place) = state, now
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, transition.number)
        carry = step(step_keys, carry, transition)
        write = lambda k, c: lax.dynamic_update_index_in_dim(k, c, place, 0)
        return (carry, jax.tree.map(write, kept, carry)), None

    empty = jax.tree.map(lambda c: jnp.zeros((len(keep) + 1, *c.shape), c.dtype), carry)
    (carry, kept), _ = lax.scan(body, (carry, empty), (steps, places))
    return carry, jax.tree.map(lambda k: k[:-1], kept)


def prior_sample(keys: Array, shape: tuple[int, ...], gamma_1: Array, process: Process = VP) -> Array:
    """Sample z_1 ~ p(z_1), [B, *shape]. keys: [B]; gamma_1: γ at t = 1."""
    eps = jax.vmap(lambda k: jax.random.normal(k, shape, jnp.result_type(float)))(keys)
    return jnp.sqrt(process.prior_variance(gamma_1)) * eps


def normal(keys: Array, z: Array) -> Array:
    """Sample standard normal noise of the shape of z [B, …], row k from keys[k]."""
    return jax.vmap(lambda k: jax.random.normal(k, z.shape[1:], z.dtype))(keys)


def ancestral(predict: Predict) -> Step:
    """Ancestral step z_s ~ q(z_s|z_t, x = x̂(z_t)) (VDM eq. 9; DDPM algorithm 2 with variance β̃)."""

    def step(keys: Array, z: Array, transition: Transition) -> Array:
        frm, to, delta, *_ = transition
        mean, deviation = posterior_of_x(z, predict(z, frm).x, frm, to, delta)
        return mean + expand(deviation, z.ndim) * normal(keys, z)

    return step


def ddim(predict: Predict, eta: float = 0.0) -> Step:
    """DDIM step z_s = α_s x̂ + √(σ_s² − η² σ_Q²) ε̂ + η σ_Q ε (Song et al. 2021, eq. 12).

    η = 0 is deterministic; η = 1 is ancestral sampling.
    """

    def step(keys: Array, z: Array, transition: Transition) -> Array:
        frm, to, delta, *_ = transition
        x, eps, _ = predict(z, frm)
        # σ_Q² = −expm1(−δ) σ_s², so σ_s² − η² σ_Q² = σ_s² (1 + η² expm1(−δ)), which cancels where η = 1 and δ is large
        direction = to.sigma * jnp.sqrt((1 - eta**2) + eta**2 * jnp.exp(-delta))
        z_s = expand(to.alpha, z.ndim) * x + expand(direction, z.ndim) * eps
        if eta == 0:
            return z_s
        return z_s + eta * expand(posterior_deviation(to, delta), z.ndim) * normal(keys, z)

    return step


def euler(predict: Predict, process: Process = VP) -> Step:
    """Euler step of the probability-flow ODE in γ: z_s = z_t − δ dz/dγ."""

    def step(keys: Array, z: Array, transition: Transition) -> Array:
        frm, _, delta, *_ = transition
        return z - expand(delta, z.ndim) * flow(z, predict(z, frm).eps, frm, process)

    return step


def heun(predict: Predict, process: Process = VP) -> Step:
    """Heun step (order 2) of the probability-flow ODE in γ, with two network calls."""

    def step(keys: Array, z: Array, transition: Transition) -> Array:
        frm, to, delta, *_ = transition
        d = expand(delta, z.ndim)
        slope = flow(z, predict(z, frm).eps, frm, process)
        guess = z - d * slope
        return z - 0.5 * d * (slope + flow(guess, predict(guess, to).eps, to, process))

    return step


def spread(level: Noise, z: Array) -> Noise:
    """Broadcast the fields of a noise level to [B] for z [B, …]."""
    return jax.tree.map(lambda a: jnp.broadcast_to(a, z.shape[:1]), level)


def predictor(denoise: Denoise, split: Callable[..., Prediction], cond: Any) -> Predict:
    """Combine a denoiser and the conversion of its output into one function of (z, level).

    Args:
        denoise: The network.
        split: Conversion of its output to (x̂, ε̂).
        cond: Conditions, a pytree of [B, …].
    """

    def predict(z: Array, level: Noise) -> Prediction:
        level = spread(level, z)
        return split(denoise(z, level, cond), z, level)

    return predict
