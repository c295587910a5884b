"""Encoding of data to real numbers, and the decoder p(x|z_0).

Discrete data with V values map to the centers of V bins of [−1, 1], f = 2 (x + ½)/V − 1, and
p(x|z_0) ∝ q(z_0|x) is a softmax over the vocabulary (VDM, §3.3). Continuous data are not changed, and
p(x|z_0) = N(x; z_0/α_0, e^{γ_0} I).

In the DDPM family the data themselves end the chain: value k maps to 2k/(V − 1) − 1. The last reverse step is a
Gaussian, and the probability of a value is the mass of that Gaussian in the bin of the value.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion.process import Noise, expand, sum_except_batch

NOT_FINITE = -1  # sentinel for pixels that are not finite


def encode(x: Array, vocabulary: int | None) -> Array:
    """Map values 0 … V−1 to bin centers in (−1, 1), float32; continuous data (vocabulary None) are returned as is."""
    if vocabulary is None:
        return jnp.asarray(x)
    return 2 * (x.astype(jnp.result_type(float)) + 0.5) / vocabulary - 1


def logits(z: Array, level: Noise, vocabulary: int) -> Array:
    """Return log q(z_0|x = k) up to a constant, for every value k: [B, …] → [B, …, V]."""
    centers = encode(jnp.arange(vocabulary), vocabulary)
    centered = (z / expand(level.alpha, z.ndim))[..., None]
    scale = jnp.exp(-0.5 * level.gamma)
    return -0.5 * jnp.square((centered - centers.reshape((1,) * z.ndim + (-1,))) * expand(scale, z.ndim + 1))


def log_prob(x: Array, z: Array, level: Noise, vocabulary: int | None) -> Array:
    """Return log p(x|z_0), [B] nats: log-probabilities for discrete data, log-densities for continuous data.

    Args:
        x: Pixel values (or real numbers), [B, …].
        z: The latent z_0, [B, …].
        level: The noise level γ_0.
        vocabulary: Number V of values; None for continuous data.
    """
    if vocabulary is None:
        scale = jnp.exp(-0.5 * level.gamma)
        error = (x - z / expand(level.alpha, z.ndim)) * expand(scale, z.ndim)
        gamma = expand(level.gamma, z.ndim)
        return -0.5 * sum_except_batch(jnp.square(error) + gamma + math.log(2 * math.pi))
    every = logits(z, level, vocabulary)
    chosen = jnp.take_along_axis(every, x.astype(jnp.int32)[..., None], axis=-1)[..., 0]
    return sum_except_batch(chosen - jax.nn.logsumexp(every, axis=-1))


def decode(z: Array, level: Noise, vocabulary: int | None, keys: Array | None = None) -> Array:
    """Decode z_0 to data: the mode of p(x|z_0), or a sample of it.

    Args:
        z: The latent z_0, [B, …].
        level: The noise level γ_0.
        vocabulary: Number V of values; None for continuous data.
        keys: Random keys [B] to sample with; None for the mode.

    Returns:
        int32 values for discrete data, −1 where z_0 is not finite; z_0/α_0 (plus e^{γ_0/2} noise) for continuous
        data. [B, …].
    """
    if vocabulary is None:
        mean = z / expand(level.alpha, z.ndim)
        if keys is None:
            return mean
        eps = jax.vmap(lambda k: jax.random.normal(k, z.shape[1:], z.dtype))(keys)
        return mean + expand(jnp.exp(0.5 * level.gamma), z.ndim) * eps
    every = logits(z, level, vocabulary)
    values = jnp.argmax(every, axis=-1) if keys is None else jax.vmap(jax.random.categorical)(keys, every)
    return _where_finite(z, values)


def encode_to_ends(x: Array, vocabulary: int | None) -> Array:
    """Map values 0 … V − 1 to −1 … 1 in steps of 2/(V − 1): x/127.5 − 1 for bytes (DDPM, Improved DDPM, score SDE).

    Continuous data (vocabulary None) are returned as is.
    """
    if vocabulary is None:
        return x
    return x.astype(jnp.result_type(float)) / ((vocabulary - 1) / 2) - 1


def decode_from_ends(z: Array, vocabulary: int | None) -> Array:
    """Round z to the nearest value, int32, −1 where z is not finite; continuous data (vocabulary None) as is."""
    if vocabulary is None:
        return z
    return _where_finite(z, jnp.clip(jnp.round((z + 1) * ((vocabulary - 1) / 2)), 0, vocabulary - 1))


def _where_finite(z: Array, levels: Array) -> Array:
    return jnp.where(jnp.isfinite(z), levels, NOT_FINITE).astype(jnp.int32)


def discretized_gaussian(x: Array, mean: Array, log_scale: Array, vocabulary: int, cdf: str = "exact") -> Array:
    """Return log P(x) under N(mean, e^{2 log_scale}) discretized into bins, [B, …] nats (Ho et al. 2020, eq. 13).

    A bin extends 1/(V − 1), half the spacing of values, to both sides of x. The two outermost bins are open, so the
    probabilities of all values sum to 1.

    Args:
        x: Pixel values, [B, …].
        mean: Mean in the encoding of `encode_to_ends`, [B, …].
        log_scale: Log standard deviation, [B, …].
        vocabulary: Number V of values.
        cdf: 'exact', or the 'tanh' approximation Φ(u) ≈ ½ (1 + tanh √(2/π) (u + .044715 u³)) with probabilities
            of at least 10⁻¹², as the originals compute it.
    """
    centered = encode_to_ends(x, vocabulary) - mean
    scale, half = jnp.exp(-log_scale), 1 / (vocabulary - 1)
    upper, lower = scale * (centered + half), scale * (centered - half)
    if cdf == "tanh":
        phi = lambda u: 0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        safe_log = lambda p: jnp.log(jnp.maximum(p, 1e-12))
        inside, first, last = safe_log(phi(upper) - phi(lower)), safe_log(phi(upper)), safe_log(1 - phi(lower))
    else:
        inside, first, last = (
            _log_mass(lower, upper),
            jax.scipy.stats.norm.logcdf(upper),
            jax.scipy.stats.norm.logcdf(-lower),
        )
    return jnp.where(x == 0, first, jnp.where(x == vocabulary - 1, last, inside))


def _log_mass(lower: Array, upper: Array) -> Array:
    """Return log(Φ(upper) − Φ(lower)), computed in the tail where both are small."""
    flip = lower > 0
    low, high = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
    log_high = jax.scipy.stats.norm.logcdf(high)
    return log_high + jnp.log(-jnp.expm1(jax.scipy.stats.norm.logcdf(low) - log_high))
