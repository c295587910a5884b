"""Settings of a transformer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

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


@dataclass(frozen=True, kw_only=True)
class Common:
    """Settings that the networks of one model have in common.

    Attributes:
        gelu: The activation function, 'quick' (OpenAI's CLIP) or 'erf' (GLIDE, open_clip's default).
        key_bias: Whether keys have a bias. It does not change the output, but published weights contain it.
        epsilon: The ε of the layer norms.
        dtype: The dtype of the computation; parameters are float32.
        attention: The kind of attention, 'fused' or 'einsum', see `attend`.
        remat: 'full' to recompute blocks in the backward pass, or 'none' to store their activations.
        unroll: Number of blocks in one iteration of the loop over the depth.

    Raises:
        ValueError: The name of an activation function or of a kind of attention is unknown.
    """

    gelu: str = "quick"
    key_bias: bool = True
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32
    attention: str = "fused"
    remat: str = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        for name, value, known in (("gelu", self.gelu, GELUS), ("attention", self.attention, ATTENTIONS)):
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; take one of {', '.join(known)}")

    def common(self) -> dict[str, Any]:
        """Return the fields of this class by name."""
        return {field.name: getattr(self, field.name) for field in fields(Common)}


@dataclass(frozen=True)
class Settings(Common):
    """Settings of a transformer.

    Attributes:
        width: Size of the states.
        depth: Number of blocks.
        heads: Number of attention heads; it divides the width.
        causal: Whether a position attends only to itself and to earlier positions.

    Raises:
        ValueError: The heads do not divide the width, or as `Common`.
    """

    width: int
    depth: int
    heads: int
    causal: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} must divide width={self.width}")
