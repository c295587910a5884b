"""Settings of a transformer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


def quick_gelu(x: Array) -> Array:
    """Compute x σ(1.702 x), CLIP's approximation of `gelu`, which differs from it by up to 0.02."""
    return x * jax.nn.sigmoid(1.702 * x)


# x Φ(x), where Φ is computed by the error function. The approximation by tanh has errors of up to 5e-4.
gelu: Callable[[Array], Array] = partial(nn.gelu, approximate=False)

GELUS = {"quick": quick_gelu, "erf": gelu}
ATTENTIONS = ("fused", "einsum")


@dataclass(frozen=True)
class Settings:
    """Settings of a transformer.

    Attributes:
        width: Size of the states.
        depth: Number of blocks.
        heads: Number of attention heads; it divides the width.
        causal: Whether a position attends only to itself and to earlier positions.
        gelu: The activation function, 'quick' (OpenAI's CLIP) or 'erf' (GLIDE, open_clip's default).
        key_bias: Whether keys have a bias. It does not change the output, but published weights contain it.
        epsilon: The ε of the layer norms.
        dtype: The dtype of the computation; parameters are float32.
        attention: The kind of attention, 'fused' or 'einsum', see `attend`.
        remat: 'full' to recompute blocks in the backward pass, or 'none' to store their activations.
        unroll: Number of blocks in one iteration of the loop over the depth.

    Raises:
        ValueError: The heads do not divide the width, or a name is unknown.
    """

    width: int
    depth: int
    heads: int
    causal: bool = False
    gelu: str = "quick"
    key_bias: bool = True
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32
    attention: str = "fused"
    remat: str = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} must divide width={self.width}")
        for name, value, known in (("gelu", self.gelu, GELUS), ("attention", self.attention, ATTENTIONS)):
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; take one of {', '.join(known)}")
