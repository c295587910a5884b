"""What makes one transformer different from another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


def quick_gelu(x: Array) -> Array:
    """x σ(1.702 x), CLIP's approximation of `gelu`; the two differ by up to 0.02."""
    return x * jax.nn.sigmoid(1.702 * x)


# x Φ(x) by the error function; the approximation by tanh is off by 5e-4.
gelu: Callable[[Array], Array] = partial(nn.gelu, approximate=False)

GELUS = {"quick": quick_gelu, "erf": gelu}
ATTENTIONS = ("fused", "einsum")


@dataclass(frozen=True)
class Settings:
    """Attributes:
    width: of the states. depth: number of blocks. heads: of the attention; they divide the width.
    causal: whether a position attends to itself and those before it alone.
    gelu: 'quick' (OpenAI's CLIP) or 'erf' (GLIDE, open_clip's default).
    key_bias: whether keys have a bias, which changes no output but is a parameter of published weights.
    epsilon: of the layer norms.
    dtype: of what is computed; parameters stay float32.
    attention: 'fused', what the backend has, or 'einsum'; the two are equal up to rounding (see `attend`).
    remat: 'full' to compute a block again in the backward pass, 'none' to keep its activations.
    unroll: blocks in the body of the loop over depth.
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
