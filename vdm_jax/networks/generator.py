"""Generators x̂ = G(z_t, w, t): a perceptron for data of few dimensions. Images have `multiscale.UNet` with a latent."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vdm_jax.networks.encoders import Cond
from vdm_jax.networks.layers import Dense, timestep_embedding

LATENT = "latent"  # the name of w among the conditions
SLOPE = 0.2  # of leaky rectifiers where their input is negative


class Perceptron(nn.Module):
    """[inputs | sinusoids of t] → `depth` layers of leaky rectifiers → outputs.

    inputs: [B, D] floats; t: [B] in [0, 1] → [B, outputs].
    """

    width: int
    depth: int
    outputs: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: Array, t: Array) -> Array:
        h = jnp.concatenate([inputs, timestep_embedding(t, 16)], axis=-1)
        for layer in range(self.depth):
            h = nn.leaky_relu(Dense(self.width, dtype=self.dtype, name=f"dense{layer}")(h), SLOPE)
        return Dense(self.outputs, dtype=self.dtype, name="dense_out")(h).astype(inputs.dtype)


class MLPGenerator(nn.Module):
    """z [B, D], t [B] in [0, 1], cond with w [B, latent] as 'latent' → x̂ [B, D]. latent: 0 for none."""

    width: int
    depth: int
    latent: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, t: Array, cond: Cond) -> Array:
        inputs = jnp.concatenate([z, cond[LATENT]], axis=-1) if self.latent else z
        return Perceptron(self.width, self.depth, z.shape[-1], self.dtype, name="layers")(inputs, t)
