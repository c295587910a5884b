"""Discrete data as continuous: uniform noise within the bins of the levels (Theis et al. 2016, §3.1).

The levels 0 … V − 1 own V bins of [−1, 1], of width w = 2/V, and

    f = 2 (x + u)/V − 1,   u ~ U[0, 1),      −log P(x) ≤ E_u[−log p(f)] − D log w      (Jensen)

so bits/dim of the data are those of the density plus log₂(V/2): 7 for bytes. (Score SDE adds the same 7: 8 bits for
levels 1/256 apart and −1 for the scaling of [0, 1] to [−1, 1].) At u = ½ f is `decoders.encode`.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion import decoders


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
