"""A residual MLP for data of a few dimensions."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vdm_jax.common_fields import DENOISERS, DROPOUT
from vdm_jax.fields import Component, Field
from vdm_jax.networks.layers import Dense, class_embedding, dropout, fold, timestep_embedding

COMPONENTS = (
    Component({"model.depth": Field(4, "layers L", low=1, decisive=True)}, {"model.network": ("mlp",)}),
    Component({"model.dropout": DROPOUT}, {"method": DENOISERS, "model.network": ("mlp",)}),
)


class MLP(nn.Module):
    """ε̂(z_t, t): z [B, D], t [B] in [0, 1], conditioning [B] → [B, D]; zero output at the start + z.

    conditioning: the class, if there are num_classes of them.
    """

    width: int
    depth: int
    dropout_rate: float = 0.0
    dtype: jnp.dtype = jnp.float32
    num_classes: int = 0

    @nn.compact
    def __call__(self, z: Array, t: Array, conditioning: Array, keys: Array | None = None) -> Array:
        bit = jnp.zeros_like(t) if self.num_classes else conditioning
        cond = jnp.concatenate([timestep_embedding(t, self.width), bit[:, None]], axis=-1)
        cond = Dense(self.width, dtype=self.dtype, name="dense0")(cond)
        if self.num_classes:
            cond = cond + class_embedding(self.num_classes, self.width, conditioning).astype(cond.dtype)
        cond = nn.swish(cond)
        h = Dense(self.width, dtype=self.dtype, name="dense_in")(z)
        for layer in range(self.depth):
            u = nn.LayerNorm(dtype=self.dtype, name=f"norm{layer}")(h)
            u = Dense(self.width, dtype=self.dtype, name=f"in{layer}")(nn.swish(u))
            u = u + Dense(self.width, use_bias=False, dtype=self.dtype, name=f"cond{layer}")(cond)
            u = dropout(nn.swish(u), self.dropout_rate, fold(keys, layer))
            h = h + Dense(self.width, dtype=self.dtype, name=f"out{layer}")(u)
        zeros = nn.initializers.zeros
        out = Dense(z.shape[-1], kernel_init=zeros, dtype=self.dtype, name="dense_out")(nn.swish(h))
        return z + out.astype(z.dtype)
