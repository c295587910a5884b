"""Uniform and variational dequantization of discrete data (Theis et al. 2016, §3.1; Ho et al. 2019).

The values 0 … V − 1 have V bins of [−1, 1], of width w = 2/V, and

    f = 2 (x + u)/V − 1,   u ~ U[0, 1),      −log P(x) ≤ E_u[−log p(f)] − D log w      (Jensen)

so bits/dim of the data are those of the density plus log₂(V/2): 7 for bytes. (Score SDE adds the same 7: 8 bits for
values 1/256 apart and −1 for the scaling of [0, 1] to [−1, 1].) At u = ½ f is `decoders.encode`.

Variational dequantization (Ho et al. 2019, §3.1) draws u ~ q(u|x) and adds log q(u|x) to the bound, which is tight
where q is the model's p(f) within the bin. Here q is a flow of affine couplings from uniform noise,

    v = logit u,      v ← v · s(fixed half of v, x) + t(fixed half of v, x) on the other half, alternating,
    u′ = sigmoid v,

which is the identity at s = 1 and t = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vdm_jax.diffusion import decoders
from vdm_jax.diffusion.process import sum_except_batch

# (index of the coupling, fixed entries of 2u − 1 in (−1, 1), 0 elsewhere [B, …]) → (log s, t), each [B, …]
Couple = Callable[[int, Array], tuple[Array, Array]]


def dequantize(x: Array, u: Array, vocabulary: int | None) -> Array:
    """Return f = 2 (x + u)/V − 1; continuous data (vocabulary None) are returned as is.

    Args:
        x: Pixel values, [B, …].
        u: Noise in [0, 1), [B, …].
        vocabulary: Number V of values; None for continuous data.
    """
    return decoders.encode(x.astype(u.dtype) + (u - 0.5), vocabulary) if vocabulary else jnp.asarray(x)


def quantize(f: Array, vocabulary: int | None) -> Array:
    """Return the value whose bin contains f, int32, clipped to 0 … V − 1; continuous data are returned as is."""
    if vocabulary is None:
        return f
    return jnp.clip(jnp.floor(0.5 * vocabulary * (f + 1)), 0, vocabulary - 1).astype(jnp.int32)


def bin_nats(dimensions: int, vocabulary: int | None) -> float:
    """Return −D log w nats, which turns a bound on −log p(f) into one on −log P(x); 0 for continuous data."""
    return dimensions * math.log(vocabulary / 2) if vocabulary else 0.0


def kept(shape: tuple[int, ...], number: int) -> np.ndarray:
    """Return the checkerboard mask (0 or 1, of `shape`) of the entries that coupling `number` leaves unchanged.

    Successive couplings alternate the two colors. For a single entry, the first coupling leaves nothing unchanged.
    """
    places = sum(np.indices(shape)) + np.zeros(shape, int)
    return ((places + number) % 2).astype(np.float32)


def variational(u: Array, couplings: int, couple: Couple) -> tuple[Array, Array]:
    """Transform uniform noise u to u′ ~ q(u′|x).

    Args:
        u: Uniform noise in [0, 1), [B, …].
        couplings: Number of affine couplings.
        couple: Coupling network conditioned on x.

    Returns:
        u′ [B, …] and log q(u′|x) = −log |∂u′/∂u|, [B] nats.
    """
    least = jnp.finfo(u.dtype).epsneg  # the distance of the largest u from 1
    v = jnp.log(jnp.maximum(u, least)) - jnp.log1p(-jnp.minimum(u, 1 - least))
    log_slope = lambda v: jax.nn.log_sigmoid(v) + jax.nn.log_sigmoid(-v)  # of the sigmoid
    change = -log_slope(v)
    for number in range(couplings):
        mask = jnp.broadcast_to(jnp.asarray(kept(u.shape[1:], number), u.dtype), u.shape)
        log_s, t = couple(number, mask * (2 * jax.nn.sigmoid(v) - 1))
        v = jnp.where(mask > 0, v, v * jnp.exp(log_s) + t)
        change = change + jnp.where(mask > 0, 0, log_s)
    return jax.nn.sigmoid(v), -sum_except_batch(change + log_slope(v))
