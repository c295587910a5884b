"""Exact denoiser of independent pixels, used as a residual baseline for the network.

A pixel takes values on a lattice of spacing 2/V with the prior N(0, s²). Conditioned on z = α x + σ ε, its
posterior is N(m, v) restricted to the lattice,

    m = α s² z/(σ² + α² s²),      v = σ² s²/(σ² + α² s²),

so that with u = ½ V (m + 1) − ½ (m in units of values) and τ = ½ V √v (its standard deviation in those units)

    ε̂ = (z − α E[x|z])/σ = σ z/(σ² + α² s²)  +  √(α² s²/(σ² + α² s²)) (u − E[k|u])/τ

is the sum of the Wiener filter of one pixel and a lattice term, which decays as exp(−2π²τ²). A network that adds
zero to this baseline has the bound of independent pixels, about log₂ V bits for a broad prior; the original's
ε̂ = z + 0 costs E[x²] more than ε̂ = 0 at low noise. The network then learns only the dependence on neighboring
pixels. The lattice is infinite here: values below 0 and above V − 1 have probability too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from vdm_jax.diffusion.process import Noise, expand

# exp(−2π²τ²) at this τ is 3e-6; below it nine lattice points hold all but 6e-7 of the weight.
_FLAT = 0.8
_REACH = 4


def gaussian_eps(z: Array, level: Noise, variance: float) -> Array:
    """Return E[ε|z] = σ z/(σ² + α² s²) for z = α x + σ ε and x ~ N(0, s²).

    Args:
        z: Noisy data, [B, …].
        level: Noise level with fields of shape [B] or scalar.
        variance: Prior variance s² of a pixel.
    """
    gain = level.sigma / (jnp.square(level.sigma) + jnp.square(level.alpha) * variance)
    return expand(gain, z.ndim) * z


def unexplained(level: Noise, variance: float) -> Array:
    """Return √(α² s²/(σ² + α² s²)), the standard deviation of ε conditioned on z for Gaussian pixels, [B].

    This is the scale of the network's residual: near 1 at low noise, decaying as e^{−γ/2} at high noise.
    """
    signal = jnp.square(level.alpha) * variance
    return jnp.sqrt(signal / (jnp.square(level.sigma) + signal))


def lattice_pull(mean: Array, deviation: Array, vocabulary: int) -> Array:
    """Return (u − E[k|u])/τ for x ~ N(mean, deviation²) on the bin centers 2 (k + ½)/V − 1 of all integers k.

    Args:
        mean: Posterior mean m, [B, …].
        deviation: Posterior standard deviation √v, [B, …].
        vocabulary: Number V of pixel values.

    Returns:
        The lattice term in units of the standard deviation, [B, …].
    """
    u, tau = 0.5 * vocabulary * (mean + 1) - 0.5, 0.5 * vocabulary * deviation
    offsets = jnp.arange(-_REACH, _REACH + 1, dtype=mean.dtype).reshape((1,) * mean.ndim + (-1,))
    # in standard deviations; where the lattice is finer than one of them, the result is not used
    distance = ((u - jnp.round(u))[..., None] - offsets) / jnp.minimum(tau, 1.0)[..., None]
    weights = jax.nn.softmax(-0.5 * jnp.square(distance), axis=-1)
    return jnp.where(tau < _FLAT, jnp.sum(weights * distance, axis=-1), jnp.zeros_like(mean))


def pixel_eps(z: Array, level: Noise, variance: float, vocabulary: int | None) -> Array:
    """Return the baseline ε̂ of independent pixels, [B, …].

    Args:
        z: Noisy data, [B, …].
        level: Noise level with fields of shape [B] or scalar.
        variance: Prior variance s² of a pixel.
        vocabulary: Number V of pixel values; None for continuous data, which have no lattice term.
    """
    eps = gaussian_eps(z, level, variance)
    if vocabulary is None:
        return eps
    left = expand(unexplained(level, variance), z.ndim)  # √v α/σ
    ratio = expand(level.sigma / level.alpha, z.ndim)
    mean = jnp.square(left) * z / expand(level.alpha, z.ndim)
    return eps + left * lattice_pull(mean, jnp.broadcast_to(left * ratio, z.shape), vocabulary)
