"""What ε̂ is before anything is learned: the exact denoiser of independent pixels.

A pixel with a broad prior of variance s² on the V levels, 2/V apart, has at noise level γ the density

    p(z) ∝ N(z; 0, σ² + α² s²) · Σ_k exp(−½ (u − k)²/τ²),      u = ½ V (z/α + 1) − ½,   τ = ½ V σ/α

(u: z in units of levels; τ: the noise in those units), so that ε̂ = −σ ∇ log p(z) is a sum of two:

    ε̂ = σ z/(σ² + α² s²)  +  (u − E[k|u])/τ

the Wiener filter of one pixel and the pull of the lattice, which fades as exp(−2π²τ²). A network that
adds zero to it has the bound of such pixels, log₂ V bits for a flat prior; the original's ε̂ = z + 0
costs E[x²] more than ε̂ = 0 at low noise. What is left for the network is what neighbours say.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion.process import Noise, expand

# exp(−2π²τ²) at this τ is 3e-6; below it nine levels hold all but 6e-7 of the weight.
_FLAT = 0.8
_REACH = 4


def gaussian_eps(z: Array, level: Noise, variance: float) -> Array:
    """σ z/(σ² + α² s²): E[ε|z] for z = α x + σ ε, x ~ N(0, s²). z: [B, …]; level: [B] or scalar."""
    gain = level.sigma / (jnp.square(level.sigma) + jnp.square(level.alpha) * variance)
    return expand(gain, z.ndim) * z


def lattice_eps(z: Array, level: Noise, vocabulary: int) -> Array:
    """(u − E[k|u])/τ: E[ε|z] for x uniform on the bin centres 2 (k + ½)/V − 1 of all integers k."""
    u = 0.5 * vocabulary * (z / expand(level.alpha, z.ndim) + 1) - 0.5
    tau = jnp.broadcast_to(expand(0.5 * vocabulary * jnp.exp(0.5 * level.gamma), z.ndim), z.shape)
    offsets = jnp.arange(-_REACH, _REACH + 1, dtype=z.dtype).reshape((1,) * z.ndim + (-1,))
    # in units of the noise; where the noise is wider than the lattice the result is not used
    distance = ((u - jnp.round(u))[..., None] - offsets) / jnp.minimum(tau, 1.0)[..., None]
    weights = jax.nn.softmax(-0.5 * jnp.square(distance), axis=-1)
    return jnp.where(tau < _FLAT, jnp.sum(weights * distance, axis=-1), jnp.zeros_like(z))


def pixel_eps(z: Array, level: Noise, variance: float, vocabulary: int | None) -> Array:
    """ε̂ of independent pixels; continuous data (vocabulary None) have no lattice. [B, …] → [B, …]."""
    eps = gaussian_eps(z, level, variance)
    return eps if vocabulary is None else eps + lattice_eps(z, level, vocabulary)


def unexplained(level: Noise, variance: float) -> Array:
    """√(α² s²/(σ² + α² s²)): the deviation of ε given z for Gaussian pixels, the size of what is left
    for the network; near 1 at low noise, falling as e^{−γ/2} at high noise. [B]."""
    signal = jnp.square(level.alpha) * variance
    return jnp.sqrt(signal / (jnp.square(level.sigma) + signal))
