"""The symmetric InfoNCE loss of CLIP (Radford et al. 2021, figure 3; van den Oord et al. 2018, eq. 4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

MAX_LOG_SCALE = math.log(100)  # Radford et al. 2021, §2.5


class Contrast(NamedTuple):
    """The loss and the accuracies of one batch, each [b].

    Attributes:
        loss: ½ (image_to_text + text_to_image) in nats.
        image_to_text: −log p(the caption | the image) among the captions of the global batch, in nats.
        text_to_image: −log p(the image | the caption) among the images of the global batch, in nats.
        image_accuracy: 1 if the caption of the image has the largest logit of all, else 0.
        text_accuracy: 1 if the image of the caption has the largest logit of all, else 0.
    """

    loss: Array
    image_to_text: Array
    text_to_image: Array
    image_accuracy: Array
    text_accuracy: Array


def symmetric(
    image: Array,
    text: Array,
    log_scale: Array,
    index: Array,
    gather: Callable[[Array], Array] = lambda a: a,
    same: Array | None = None,
) -> Contrast:
    """Compute ½ (CE(images → captions) + CE(captions → images)) with logits exp(log_scale) ⟨image_i, text_j⟩.

    The candidates are all examples of the global batch.

    Args:
        image: Embeddings of norm 1, [b, E].
        text: Embeddings of norm 1, [b, E].
        log_scale: The logarithm of the inverse temperature, [].
        index: The positions of the rows in the global batch, int [b].
        gather: [b, …] → [total, …], the rows of the global batch.
        same: Integers [b] that are equal for captions with the same meaning; such pairs are not negatives of each
            other. None if all other examples are negatives.
    """
    scale = jnp.exp(log_scale).astype(image.dtype)
    hidden = None
    if same is not None:
        everyone = gather(same)
        own = index[:, None] == jnp.arange(len(everyone), dtype=index.dtype)[None]
        hidden = (same[:, None] == everyone[None]) & ~own
    to_text = _cross_entropy(scale * _products(image, gather(text)), index, hidden)
    to_image = _cross_entropy(scale * _products(text, gather(image)), index, hidden)
    return Contrast(0.5 * (to_text[0] + to_image[0]), to_text[0], to_image[0], to_text[1], to_image[1])


def _products(a: Array, b: Array) -> Array:
    """Return ⟨a_i, b_j⟩ [b, N]; a temperature of 1/100 would magnify the rounding of bfloat16 products."""
    return jnp.einsum("ie,je->ij", a, b, precision=jax.lax.Precision.HIGHEST)


def _cross_entropy(logits: Array, index: Array, hidden: Array | None) -> tuple[Array, Array]:
    """Return −log softmax(logits)_index [b], and 1 where no other logit is as large, else 0, [b]."""
    own = jnp.take_along_axis(logits, index[:, None], axis=1)
    if hidden is not None:
        logits = jnp.where(hidden, -jnp.inf, logits)
    rivals = jnp.sum(logits >= own, axis=1)  # includes the logit itself
    return jax.nn.logsumexp(logits, axis=1) - own[:, 0], (rivals == 1).astype(logits.dtype)


def projected(log_scale: Array) -> Array:
    """Return min(log_scale, ln 100), applied after each update; inside the loss, the minimum has no gradient beyond."""
    return jnp.minimum(log_scale, jnp.asarray(MAX_LOG_SCALE, log_scale.dtype))
