"""What ε̂ is before anything is learned: the exact denoiser of lone pixels.

A pixel on the levels of a lattice 2/V apart, with the prior N(0, s²) on them, has given z = α x + σ ε a
posterior that is N(m, v) on the lattice,

    m = α s² z/(σ² + α² s²),      v = σ² s²/(σ² + α² s²),

so that with u = ½ V (m + 1) − ½ (m in units of levels) and τ = ½ V √v (its deviation in those units)

    ε̂ = (z − α E[x|z])/σ = σ z/(σ² + α² s²)  +  √(α² s²/(σ² + α² s²)) (u − E[k|u])/τ

the Wiener filter of one pixel and the pull of the lattice, which fades as exp(−2π²τ²). A network that adds
zero to it has the bound of such pixels, about log₂ V bits for a broad prior; the original's ε̂ = z + 0 costs
E[x²] more than ε̂ = 0 at low noise. What is left for the network is what neighbours say. The lattice has no
ends here: levels below 0 and above V − 1 count too.
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


def unexplained(level: Noise, variance: float) -> Array:
    """√(α² s²/(σ² + α² s²)): the deviation of ε given z for Gaussian pixels, the size of what is left
    for the network; near 1 at low noise, falling as e^{−γ/2} at high noise. [B]."""
    signal = jnp.square(level.alpha) * variance
    return jnp.sqrt(signal / (jnp.square(level.sigma) + signal))


def lattice_pull(mean: Array, deviation: Array, vocabulary: int) -> Array:
    """(u − E[k|u])/τ for x ~ N(mean, deviation²) on the bin centres 2 (k + ½)/V − 1 of all integers k.

    mean, deviation: [B, …].
    """
    u, tau = 0.5 * vocabulary * (mean + 1) - 0.5, 0.5 * vocabulary * deviation
    offsets = jnp.arange(-_REACH, _REACH + 1, dtype=mean.dtype).reshape((1,) * mean.ndim + (-1,))
    # in deviations; where the lattice is finer than that the result is not used
    distance = ((u - jnp.round(u))[..., None] - offsets) / jnp.minimum(tau, 1.0)[..., None]
    weights = jax.nn.softmax(-0.5 * jnp.square(distance), axis=-1)
    return jnp.where(tau < _FLAT, jnp.sum(weights * distance, axis=-1), jnp.zeros_like(mean))


def pixel_eps(z: Array, level: Noise, variance: float, vocabulary: int | None) -> Array:
    """ε̂ of lone pixels; continuous data (vocabulary None) have no lattice. [B, …] → [B, …]."""
    eps = gaussian_eps(z, level, variance)
    if vocabulary is None:
        return eps
    left = expand(unexplained(level, variance), z.ndim)  # √v α/σ
    ratio = expand(level.sigma / level.alpha, z.ndim)
    mean = jnp.square(left) * z / expand(level.alpha, z.ndim)
    return eps + left * lattice_pull(mean, jnp.broadcast_to(left * ratio, z.shape), vocabulary)
