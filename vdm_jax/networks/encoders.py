"""How a condition enters a network: one encoder for each, chosen by the condition's name in `cond`.

An encoder is called inside a network's `nn.compact`, so its parameters are part of that network. It returns an
`Injection`: the ways in that networks offer. A network raises ValueError for a way in that it does not have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vdm_jax.networks.style import Mapping as StyleMapping
from vdm_jax.networks.tokens import Tokens

Cond = Mapping[str, Array]
Initializer = nn.initializers.Initializer


class Injection(NamedTuple):
    """What conditions contribute to a network; None where they contribute nothing.

    features: [B, F], concatenated with the features of t. embedding: [B, E], added to the embedding of t.
    channels: [B, H, W, C], concatenated with z. style: [B, S], which adapts the norms of all blocks.
    tokens: keys and values of every attention block, prepended to those of the pixels (GLIDE, Nichol et al. 2021).
    """

    features: Array | None = None
    embedding: Array | None = None
    channels: Array | None = None
    style: Array | None = None
    tokens: Tokens | None = None


class Site(NamedTuple):
    """What a network offers to encoders.

    z: [B, …], for its shape. width: E, channels of the embedding of t. embedding_init, kernel_init: how tables and
    dense layers of this network start. dtype: of the computation.
    """

    z: Array
    width: int
    embedding_init: Initializer
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32


class Encoder(Protocol):
    """name: of the condition in `cond`. example: a value for a batch of z, of zeros, to initialize a network with."""

    @property
    def name(self) -> str: ...

    def example(self, z: Array) -> Array: ...

    def __call__(self, value: Array, site: Site) -> Injection: ...


@dataclasses.dataclass(frozen=True)
class ClassEmbedding:
    """A learned vector for each of `num_classes` labels (the null class among them), added to the embedding of t."""

    name: str
    num_classes: int
    module: str = "classes"

    def example(self, z: Array) -> Array:
        """int [B]."""
        return jnp.zeros(len(z), jnp.int32)

    def __call__(self, value: Array, site: Site) -> Injection:
        table = nn.Embed(self.num_classes, site.width, embedding_init=site.embedding_init, name=self.module)
        return Injection(embedding=table(value.astype(jnp.int32)))


@dataclasses.dataclass(frozen=True)
class Feature:
    """A number of each example, concatenated with the features of t (VDM, appendix B: whether it was augmented)."""

    name: str

    def example(self, z: Array) -> Array:
        """[B]."""
        return jnp.zeros(len(z))

    def __call__(self, value: Array, site: Site) -> Injection:
        return Injection(features=value[:, None])


@dataclasses.dataclass(frozen=True)
class ConcatImage:
    """A smaller image, enlarged and concatenated with z, on the scale of clean data.

    Bilinear between centers of pixels, edges repeated: torch's `interpolate` with align_corners=False.
    """

    name: str
    side: int
    channels: int

    def example(self, z: Array) -> Array:
        """[B, side, side, channels]."""
        return jnp.zeros((len(z), self.side, self.side, self.channels))

    def __call__(self, value: Array, site: Site) -> Injection:
        large = jax.image.resize(value, (*site.z.shape[:3], value.shape[-1]), "bilinear")
        return Injection(channels=large.astype(site.z.dtype))


@dataclasses.dataclass(frozen=True)
class LatentStyle:
    """A latent w [B, latent] of a generator, through a mapping network of `depth` + 1 layers to a style."""

    name: str
    latent: int
    width: int = 256
    depth: int = 3
    module: str = "mapping"

    def example(self, z: Array) -> Array:
        """[B, latent]."""
        return jnp.zeros((len(z), self.latent))

    def __call__(self, value: Array, site: Site) -> Injection:
        mapping = StyleMapping(self.width, self.depth, site.dtype, site.kernel_init, name=self.module)
        return Injection(style=mapping(value))


def examples(encoders: Sequence[Encoder], z: Array) -> dict[str, Array]:
    """A `cond` of zeros for a batch of z, to initialize a network with."""
    return {encoder.name: encoder.example(z) for encoder in encoders}


def inject(encoders: Sequence[Encoder], cond: Cond, site: Site) -> Injection:
    """What all conditions contribute.

    Args:
      encoders: one for each condition that the network knows; other entries of cond are not looked at.
      cond: name → value [B, …].
      site: what the network offers.

    Raises:
      ValueError: a condition is missing, two of them give a style, or their tokens differ in width.
    """
    parts = []
    for encoder in encoders:
        if encoder.name not in cond:
            raise ValueError(f"the network is conditioned on {encoder.name!r}; cond has {sorted(cond) or 'nothing'}")
        parts.append(encoder(cond[encoder.name], site))
    if sum(part.style is not None for part in parts) > 1:
        raise ValueError("two conditions give a style; a network takes one")
    return Injection(
        _concatenated([part.features for part in parts if part.features is not None]),
        _added([part.embedding for part in parts if part.embedding is not None]),
        _concatenated([part.channels for part in parts if part.channels is not None]),
        next((part.style for part in parts if part.style is not None), None),
        _joined([part.tokens for part in parts if part.tokens is not None]),
    )


def without(injection: Injection, network: str, *ways: str) -> Injection:
    """The injection; ValueError if it uses one of the ways in that the network does not have."""
    for way in ways:
        if getattr(injection, way) is not None:
            raise ValueError(f"{network} takes no {way} of conditions")
    return injection


def _concatenated(arrays: list[Array]) -> Array | None:
    if len(arrays) > 1:
        return jnp.concatenate(arrays, axis=-1)
    return arrays[0] if arrays else None


def _joined(sequences: list[Tokens]) -> Tokens | None:
    """One sequence after the other."""
    if len(sequences) < 2:
        return sequences[0] if sequences else None
    if len(widths := {tokens.states.shape[-1] for tokens in sequences}) > 1:
        raise ValueError(f"the tokens of conditions have widths {sorted(widths)}; attention takes one")
    states, masks = zip(*sequences, strict=True)
    return Tokens(jnp.concatenate(states, axis=1), jnp.concatenate(masks, axis=1))


def _added(arrays: list[Array]) -> Array | None:
    return sum(arrays[1:], arrays[0]) if arrays else None
