"""Residual multilayer perceptron for low-dimensional data."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vdm_jax.common_fields import DENOISERS, DROPOUT
from vdm_jax.fields import Component, Field
from vdm_jax.networks.encoders import Cond, Encoder, Site, inject, without
from vdm_jax.networks.layers import Dense, dropout, fold, timestep_embedding

COMPONENTS = (
    Component({"model.depth": Field(4, "residual layers L", low=1, decisive=True)}, {"model.network": ("mlp",)}),
    Component({"model.dropout": DROPOUT}, {"method": DENOISERS, "model.network": ("mlp",)}),
)


class MLP(nn.Module):
    """Residual MLP ε̂(z_t, t): z [B, D], t [B] in [0, 1], cond → [B, D]. At initialization the output is z.

    If no encoder returns features, a column of zeros is concatenated with the embedding of t instead.

    Attributes:
        width: Units of every layer.
        depth: Number L of residual layers.
        dropout_rate: Rate of dropout in every layer.
        dtype: Dtype of the computation.
        encoders: Encoders of conditions; see `encoders`.
    """

    width: int
    depth: int
    dropout_rate: float = 0.0
    dtype: jnp.dtype = jnp.float32
    encoders: tuple[Encoder, ...] = ()

    @nn.compact
    def __call__(self, z: Array, t: Array, cond: Cond, keys: Array | None = None) -> Array:
        site = Site(z, self.width, nn.initializers.zeros, dtype=self.dtype)
        injected = without(
            inject(self.encoders, cond, site), "the multilayer perceptron", "channels", "style", "tokens"
        )
        features = jnp.zeros_like(t)[:, None] if injected.features is None else injected.features
        time = jnp.concatenate([timestep_embedding(t, self.width), features], axis=-1)
        time = Dense(self.width, dtype=self.dtype, name="dense0")(time)
        if injected.embedding is not None:
            time = time + injected.embedding.astype(time.dtype)
        time = nn.swish(time)
        h = Dense(self.width, dtype=self.dtype, name="dense_in")(z)
        for layer in range(self.depth):
            u = nn.LayerNorm(dtype=self.dtype, name=f"norm{layer}")(h)
            u = Dense(self.width, dtype=self.dtype, name=f"in{layer}")(nn.swish(u))
            u = u + Dense(self.width, use_bias=False, dtype=self.dtype, name=f"cond{layer}")(time)
            u = dropout(nn.swish(u), self.dropout_rate, fold(keys, layer))
            h = h + Dense(self.width, dtype=self.dtype, name=f"out{layer}")(u)
        zeros = nn.initializers.zeros
        out = Dense(z.shape[-1], kernel_init=zeros, dtype=self.dtype, name="dense_out")(nn.swish(h))
        return z + out.astype(z.dtype)
