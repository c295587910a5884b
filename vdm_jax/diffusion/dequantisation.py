"""Discrete data as continuous: uniform noise within the bins of the levels (Theis et al. 2016, §3.1).

The levels 0 … V − 1 own V bins of [−1, 1], of width w = 2/V, and

    f = 2 (x + u)/V − 1,   u ~ U[0, 1),      −log P(x) ≤ E_u[−log p(f)] − D log w      (Jensen)

so bits/dim of the data are those of the density plus log₂(V/2): 7 for bytes. (Score SDE adds the same 7: 8 bits for
levels 1/256 apart and −1 for the scaling of [0, 1] to [−1, 1].) At u = ½ f is `decoders.encode`.

With u ~ q(u|x) of one's choice (variational dequantisation, Ho et al. 2019, §3.1) log q(u|x) is added to the bound,
which is tight where q is the model's p(f) within the bin. Here q is a flow of affine couplings from uniform noise,

    v = logit u,      v ← v · s(kept half of v, x) + t(kept half of v, x) on the other half, in turns,
    u′ = sigmoid v,

which is uniform noise itself as long as s = 1 and t = 0.
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

# (number of the coupling, what is kept of u as numbers in (−1, 1), 0 elsewhere [B, …]) → (log s, t), each [B, …]
Couple = Callable[[int, Array], tuple[Array, Array]]


def dequantise(x: Array, u: Array, vocabulary: int | None) -> Array:
    """f = 2 (x + u)/V − 1; continuous data (vocabulary None) pass. x: levels [B, …]; u: [B, …] in [0, 1)."""
    return decoders.encode(x + (u - 0.5), vocabulary) if vocabulary else jnp.asarray(x)


def quantise(f: Array, vocabulary: int | None) -> Array:
    """The level whose bin holds f, int32, the nearest one outside of [−1, 1]; continuous data pass."""
    if vocabulary is None:
        return f
    return jnp.clip(jnp.floor(0.5 * vocabulary * (f + 1)), 0, vocabulary - 1).astype(jnp.int32)


def bin_nats(dimensions: int, vocabulary: int | None) -> float:
    """−D log w, what a bound on −log p(f) needs to be one on −log P(x), in nats; 0 for continuous data."""
    return dimensions * math.log(vocabulary / 2) if vocabulary else 0.0


def kept(shape: tuple[int, ...], number: int) -> np.ndarray:
    """What a coupling keeps, 1 or 0 in `shape`: one colour of a checkerboard, the other in the next; of a single number
    the first coupling keeps nothing."""
    places = sum(np.indices(shape)) + np.zeros(shape, int)
    return ((places + number) % 2).astype(np.float32)


def variational(u: Array, couplings: int, couple: Couple) -> tuple[Array, Array]:
    """Uniform u [B, …] → u′ ~ q(u′|x) and log q(u′|x) [B], which is −log |∂u′/∂u|; couple: for these x."""
    least = jnp.finfo(u.dtype).epsneg  # as far from 0 as the greatest u is from 1
    v = jnp.log(jnp.maximum(u, least)) - jnp.log1p(-jnp.minimum(u, 1 - least))
    log_slope = lambda v: jax.nn.log_sigmoid(v) + jax.nn.log_sigmoid(-v)  # of the sigmoid
    change = -log_slope(v)
    for number in range(couplings):
        mask = jnp.broadcast_to(jnp.asarray(kept(u.shape[1:], number), u.dtype), u.shape)
        log_s, t = couple(number, mask * (2 * jax.nn.sigmoid(v) - 1))
        v = jnp.where(mask > 0, v, v * jnp.exp(log_s) + t)
        change = change + jnp.where(mask > 0, 0, log_s)
    return jax.nn.sigmoid(v), -sum_except_batch(change + log_slope(v))
