"""Gaussian classes: everything that a guided model needs in closed form, and a small network that learns it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vdm_jax.diffusion import prediction
from vdm_jax.diffusion.process import VE, VP, Noise, Process, expand, noise, q_sample


class Classes(NamedTuple):
    """Shares [K], means [K, D] and standard deviations [K, D] of the classes; the label K is ∅."""

    shares: np.ndarray
    means: np.ndarray
    deviations: np.ndarray

    def parts(self, z: Array, level: Noise) -> tuple[Array, Array, Array]:
        """Return, for every class at z [B, D], log (share × density) [B, K], mean − z and variance of z [B, K, D]."""
        like = lambda a: jnp.broadcast_to(jnp.asarray(a, z.dtype), (len(z), *a.shape))
        alpha, sigma = expand(level.alpha, 3), expand(level.sigma, 3)
        off = alpha * like(self.means) - z[:, None]
        variance = jnp.square(alpha * like(self.deviations)) + jnp.square(sigma)
        log = -0.5 * jnp.sum(jnp.square(off) / variance + jnp.log(2 * math.pi * variance), axis=-1)
        return jnp.log(like(self.shares)) + log, off, variance

    def scores(self, z: Array, level: Noise) -> Array:
        """Return ∇ log p(z|c) of every class and, last, ∇ log p(z): [B, K + 1, D]."""
        log, off, variance = self.parts(z, level)
        each = off / variance
        marginal = jnp.sum(jax.nn.softmax(log)[..., None] * each, axis=1, keepdims=True)
        return jnp.concatenate([each, marginal], axis=1)

    def curvature(self, z: Array, level: Noise) -> Array:
        """Return ∂²log p(z)/∂z_i², [B, D]."""
        log, off, variance = self.parts(z, level)
        r, each = jax.nn.softmax(log)[..., None], off / variance
        return jnp.sum(r * (jnp.square(each) - 1 / variance), axis=1) - jnp.square(jnp.sum(r * each, axis=1))

    def denoise(self, z: Array, level: Noise, labels: Array) -> Array:
        """Return the exact ε̂ for labels [B]."""
        score = jnp.take_along_axis(self.scores(z, level), labels[:, None, None], axis=1)[:, 0]
        return -expand(level.sigma, 2) * score

    def logits(self, z: Array, level: Noise) -> Array:
        """Return log p(c|z) up to a constant, [B, K]."""
        return self.parts(z, level)[0]

    def log_parts(self, x: np.ndarray) -> np.ndarray:
        """Return log (share × density) of every class at data x [N, D], float64 [N, K]."""
        off = (x[:, None] - self.means) / self.deviations
        each = -0.5 * (off**2 + math.log(2 * math.pi)) - np.log(self.deviations)
        return np.log(self.shares) + each.sum(-1)

    def component(self, k: int) -> Classes:
        """Return the distribution of class k."""
        return Classes(np.ones(1), self.means[k : k + 1], self.deviations[k : k + 1])

    def draw(self, rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
        """Draw x given labels, [N, D]."""
        return self.means[labels] + self.deviations[labels] * rng.standard_normal((len(labels), self.means.shape[1]))


# Three Gaussians on a line, as in the lecture.
LINE = Classes(np.array([0.3, 0.4, 0.3]), np.array([[-1.0], [0.0], [1.0]]), np.full((3, 1), 0.35))
# Two channels; the second is narrow within a class.
PLANE = Classes(LINE.shares, np.repeat(LINE.means, 2, axis=1), np.tile([0.35, 0.1], (3, 1)))

GAMMA_0, GAMMA_1 = math.log(1e-4), math.log(100)
WIDTH, STEPS, BATCH, NULL_SHARE = 64, 4000, 1024, 0.2


def network(params: list[dict[str, Array]], z: Array, level: Noise, labels: Array) -> Array:
    """Return v̂ √(α² + σ²) of a perceptron with inputs z/√(α² + σ²), γ and the label: v at equal SNR under VP."""
    size = expand(jnp.sqrt(jnp.square(level.alpha) + jnp.square(level.sigma)), 2)
    turns = 2.0 ** jnp.arange(3, dtype=z.dtype)[None] * level.gamma[:, None] / 4
    h = jnp.concatenate([z / size, jnp.sin(turns), jnp.cos(turns), level.gamma[:, None] / 4], axis=1)
    h = jnp.concatenate([h, jax.nn.one_hot(labels, 4, dtype=z.dtype)], axis=1)
    for layer in params[:-1]:
        h = jax.nn.silu(h @ layer["kernel"] + layer["bias"][None])
    return size * (h @ params[-1]["kernel"] + params[-1]["bias"][None])


def initial(key: Array) -> list[dict[str, Array]]:
    sizes = [12, WIDTH, WIDTH, WIDTH, 1]
    keys = jax.random.split(key, len(sizes))
    make = lambda k, i, o: {"kernel": jax.random.normal(k, (i, o)) / math.sqrt(i), "bias": jnp.zeros(o)}
    return [make(k, i, o) for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=False)]


@lru_cache(maxsize=1)
def trained(seed: int) -> prediction.Denoise:
    """Train a network on LINE to predict v at uniform γ, with a fifth of the labels replaced by ∅."""
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))

    def loss(params: list[dict[str, Array]], key: Array) -> Array:
        keys = jax.random.split(key, 5)
        labels = jax.random.choice(keys[0], 3, (BATCH,), p=jnp.asarray(LINE.shares, jnp.float32))
        own = lambda a: jnp.asarray(a, jnp.float32)[labels]
        x = own(LINE.means) + own(LINE.deviations) * jax.random.normal(keys[1], (BATCH, 1))
        gamma = jax.random.uniform(keys[2], (BATCH,), minval=GAMMA_0, maxval=GAMMA_1)
        level, eps = noise(gamma, gamma, VP), jax.random.normal(keys[3], (BATCH, 1))
        dropped = jnp.where(jax.random.uniform(keys[4], (BATCH,)) < NULL_SHARE, 3, labels)
        output = network(params, q_sample(x, eps, level), level, dropped)
        return jnp.mean(jnp.square(output - prediction.v_from(x, eps, level)))

    def step(carry: tuple, key: Array) -> tuple[tuple, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def train(key: Array) -> list[dict[str, Array]]:
        params = initial(key)
        keys = jax.random.split(jax.random.fold_in(key, 1), STEPS)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    return partial(network, train(jax.random.key(seed)))


def at(gamma: float | Array, process: Process = VE) -> Noise:
    """Return the noise level γ, with γ as the time input."""
    gamma = jnp.asarray(gamma, jnp.result_type(float))
    return noise(gamma, gamma, process)


def denoiser(scores: str, seed: int) -> prediction.Denoise:
    """Return the 'exact' or the 'trained' denoiser."""
    return LINE.denoise if scores == "exact" else trained(seed)


def split(scores: str) -> Callable[..., prediction.Prediction]:
    """Return the function that splits the output of this denoiser."""
    return partial(prediction.split, kind="eps" if scores == "exact" else "v")
