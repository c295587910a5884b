"""Guidance by a class or a text c: classifier (Dhariwal & Nichol 2021), classifier-free (Ho & Salimans 2022), CLIP.

All methods add a multiple of ∇ log p(c|z) to a score. Let S be this multiple relative to the *unconditional* score:

    ∇ log p(z) + S ∇ log p(c|z) = ∇ log p(z|c) + w ∇ log p(c|z),      S = 1 + w,

so S = 0 is the unconditional model and S = 1, w = 0 the conditional one. The conventions of the papers in these terms:

    S        argument                         notation of the papers
    1 + w    guidance_weight=w                (1 + w) ε̂_c − w ε̂_∅, the classifier-free paper
    g        guidance_weight=from_scale(g)    ε̂_∅ + g (ε̂_c − ε̂_∅), the "guidance scale" of GLIDE and DALL·E 2
    s        classifier_scale=s               ADM's classifier scale on an unconditional model
    1 + s    classifier_scale=s               ADM's classifier scale on a conditional model

The coefficients of ε̂_c and ε̂_∅ sum to one: where c has no effect, guidance has none. Guidance acts in two places:

  * `classifier_free` and `classifier` shift the score. They return a `Predict` for every step rule, schedule, process
    and target: ε̂ and x̂ are combined for any network target, with the variance head of the conditional half.
    `thresholds` act on the result, so wrap them around it. (ADM's code clips before it shifts: wrap in that order.)
  * `mean_shift` shifts the mean of a reverse step by Σ s ∇ log p(c|z), for learned and fixed Σ. This is first
    order in Σ, and exact where log p(c|z) is linear. Under an ancestral step the score shift moves the mean by the
    scalar σ²_{t|s}/α_{t|s} instead.

Guided *samples* do not follow p(z|c) p(c|z)^w: these densities at different t are not related by the diffusion, and
the SDE and the ODE give different distributions. Only the score at every t is the one stated.

A weight is a number, an array [B] (one per image), or a function of the noise level that returns either (`interval`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from vdm_jax.diffusion.prediction import Denoise, Prediction
from vdm_jax.diffusion.process import Noise, expand
from vdm_jax.diffusion.reverse import Reverse
from vdm_jax.diffusion.samplers import Predict, Transition, predictor, spread
from vdm_jax.diffusion.tables import Table

# A number, [B], or level → number or [B]
Weight = float | Array | Callable[[Noise], Array]
# (z [B, …], level) → ∇_z log p(c|z) [B, …]
Gradient = Callable[[Array, Noise], Array]


def from_scale(scale: float | Array) -> float | Array:
    """Convert a guidance scale, which is 1 for the conditional model, to the weight w = scale − 1."""
    return scale - 1


def classifier_free(
    denoise: Denoise, split: Callable[..., Prediction], cond: Any, null: Any, *, guidance_weight: Weight
) -> Predict:
    """Classifier-free guidance ε̂ = ε̂_c + w (ε̂_c − ε̂_∅), with one network call for both halves.

    The two halves of an image are adjacent in the doubled batch, so a batch sharded over devices is not resharded.
    Where a weight that depends on the noise level is 0 for all images, ∅ is not evaluated.

    Args:
        denoise: The network.
        split: Conversion of its output to (x̂, ε̂), without clipping.
        cond: Conditions, a pytree of [B, …].
        null: The null condition ∅ in the same shapes.
        guidance_weight: w; 0 is the conditional model.
    """
    both = predictor(denoise, split, jax.tree.map(_interleaved, cond, null))
    alone = predictor(denoise, split, cond)

    def guided(z: Array, level: Noise) -> Prediction:
        _check_batch(cond, z)
        w = _weight(guidance_weight, z, level)
        pair = both(_interleaved(z, z), jax.tree.map(lambda a: a if a.ndim == 0 else _interleaved(a, a), level))
        half = lambda i: jax.tree.map(lambda a: a.reshape(-1, 2, *a.shape[1:])[:, i], pair)
        return extrapolate(half(0), half(1), w)

    def where_it_counts(z: Array, level: Noise) -> Prediction:
        return lax.cond(jnp.all(_weight(guidance_weight, z, level) == 0), alone, guided, z, level)

    return where_it_counts if callable(guidance_weight) else guided


def classifier_free_of_several(
    denoise: Denoise, split: Callable[..., Prediction], cond: Any, nulls: Sequence[tuple[Any, Weight]]
) -> Predict:
    """Guide several conditions: ε̂ = ε̂_c + Σ_i w_i (ε̂_c − ε̂_i), where ε̂_i lacks only condition i.

    All terms share one network call. For one condition this is `classifier_free`.

    Args:
        denoise: The network.
        split: Conversion of its output to (x̂, ε̂), without clipping.
        cond: Conditions, a pytree of [B, …].
        nulls: For each guided condition, `cond` with that condition replaced by ∅, and its weight w_i.
    """
    count = 1 + len(nulls)
    everything = predictor(denoise, split, jax.tree.map(_interleaved, cond, *(null for null, _ in nulls)))

    def guided(z: Array, level: Noise) -> Prediction:
        _check_batch(cond, z)
        repeat = lambda a: a if a.ndim == 0 else _interleaved(*[a] * count)
        joint = everything(repeat(z), jax.tree.map(repeat, level))
        part = lambda i: jax.tree.map(lambda a: a.reshape(-1, count, *a.shape[1:])[:, i], joint)
        conditional = result = part(0)
        for i, (_, weight) in enumerate(nulls, start=1):
            moved, w = part(i), _weight(weight, z, level)
            result = result._replace(
                x=result.x + w * (conditional.x - moved.x), eps=result.eps + w * (conditional.eps - moved.eps)
            )
        return result

    return guided


def extrapolate(conditional: Prediction, unconditional: Prediction, w: Array | float) -> Prediction:
    """Return (1 + w) conditional − w unconditional, for x̂ and ε̂, with the variance head of the conditional one.

    x̂ is linear in ε̂ at fixed z, so z = α x̂ + σ ε̂ still holds and nothing is divided by a small α.

    Args:
        conditional: Prediction with the condition.
        unconditional: Prediction with ∅.
        w: Guidance weight: a number, or an array of the rank of x̂.
    """
    beyond = lambda a, b: a + w * (a - b)
    x, eps = beyond(conditional.x, unconditional.x), beyond(conditional.eps, unconditional.eps)
    return conditional._replace(x=x, eps=eps)


def gradient_of(log_p: Callable[[Array, Noise], Array]) -> Gradient:
    """Return ∇_z of log_p: (z [B, …], level of [B]) → [B] nats, where entry k depends on z[k] only.

    log_p may be a classifier of noisy images (`class_gradient`), or a noised CLIP: the inner product of its normalized
    embeddings times its logit scale estimates log p(z|text) − log p(z), which is log p(text|z) up to a constant.
    """
    return lambda z, level: jax.grad(lambda z: jnp.sum(log_p(z, spread(level, z))))(z)


def class_gradient(logits: Callable[[Array, Noise], Array], labels: Array) -> Gradient:
    """Return ∇_z log p(c|z) of a classifier.

    Args:
        logits: (z [B, …], level of [B]) → logits [B, K]; p is their softmax.
        labels: The classes c, int [B].
    """

    def log_p(z: Array, level: Noise) -> Array:
        _check_batch(labels, z)
        return jnp.take_along_axis(jax.nn.log_softmax(logits(z, level)), labels[:, None], axis=1)[:, 0]

    return gradient_of(log_p)


def matched(z: Array, level: Noise, table: Table) -> tuple[Array, Array]:
    """Match latents to the noise levels of another table by their SNR.

    z/α = x + (σ/α) ε depends on the SNR α²/σ² alone, so the latent of the table's level ℓ nearest in γ = −log SNR is
    (α_ℓ/α) z, whatever the process is. Levels beyond the table are clamped to its ends.

    Args:
        z: Latents [B, …].
        level: Their noise level, with fields [B] or [].
        table: The noise levels of the other model, with γ ascending.

    Returns:
        The index of the level, int [B], and the rescaled latents [B, …].
    """
    gamma = jnp.broadcast_to(level.gamma, z.shape[:1])
    index = jnp.argmin(jnp.abs(table.gamma[None] - gamma[:, None]), axis=1)
    ratio = table.level(index).alpha / jnp.broadcast_to(level.alpha, z.shape[:1])
    return index, expand(ratio, z.ndim) * z


def scaled(gradient: Gradient, scale: Weight, z: Array, level: Noise) -> Array:
    """Return s ∇ log p(c|z), [B, …]."""
    return _weight(scale, z, level) * _gradient(gradient, z, level)


def classifier(predict: Predict, gradient: Gradient, *, classifier_scale: Weight) -> Predict:
    """Shift the score, ε̂ − s σ ∇ log p(c|z), for DDIM, the ODE and the SDEs (Dhariwal & Nichol 2021, algorithm 2)."""

    def guided(z: Array, level: Noise) -> Prediction:
        base = predict(z, level)
        alpha, sigma = expand(level.alpha, z.ndim), expand(level.sigma, z.ndim)
        pull = sigma * _weight(classifier_scale, z, level) * _gradient(gradient, z, level)
        return base._replace(x=base.x + sigma / alpha * pull, eps=base.eps - pull)

    return guided


def mean_shift(reverse: Reverse, gradient: Gradient, *, classifier_scale: Weight) -> Reverse:
    """Shift the mean, z_s ~ N(μ + s Σ ∇ log p(c|z_t), Σ) (Dhariwal & Nichol 2021, algorithm 1); see `reverse.drawn`."""

    def guided(z: Array, transition: Transition) -> tuple[Array, Array]:
        mean, log_variance = reverse(z, transition)
        scale = _weight(classifier_scale, z, transition.frm)
        return mean + scale * jnp.exp(log_variance) * _gradient(gradient, z, transition.frm), log_variance

    return guided


def interval(weight: float | Array, gamma_min: float, gamma_max: float) -> Callable[[Noise], Array]:
    """Return a weight that is `weight` at γ_min ≤ γ ≤ γ_max and 0 elsewhere (Kynkäänniemi et al. 2024).

    The log SNR of the interval runs from −γ_max to −γ_min.
    """
    if not gamma_min < gamma_max:
        raise ValueError(f"an interval of noise levels needs gamma_min < gamma_max, not {gamma_min} and {gamma_max}")
    return lambda level: jnp.where((level.gamma >= gamma_min) & (level.gamma <= gamma_max), weight, 0.0)


def _interleaved(*arrays: Array) -> Array:
    """Interleave n arrays [B, …] to [n B, …]: a_0, b_0, …, a_1, b_1, …"""
    first = arrays[0]
    for other in arrays[1:]:
        if first.shape != other.shape or first.ndim == 0:
            raise ValueError(f"cond and null need the same shapes [B, …], not {first.shape} and {other.shape}")
    return jnp.stack(arrays, axis=1).reshape(-1, *first.shape[1:])


def _check_batch(tree: Any, z: Array) -> None:
    for leaf in jax.tree.leaves(tree):
        if leaf.shape[:1] != z.shape[:1]:
            raise ValueError(f"{z.shape[0]} images need one condition each, but one of shape {leaf.shape} was passed")


def _weight(weight: Weight, z: Array, level: Noise) -> Array:
    """Evaluate the weight at this noise level: a scalar or an array of the rank of z."""
    value = jnp.asarray(weight(level) if callable(weight) else weight, z.dtype)
    if value.shape not in ((), z.shape[:1]):
        raise ValueError(
            f"a weight must be a number or one for each of {z.shape[0]} images, not of shape {value.shape}"
        )
    return expand(value, z.ndim)


def _gradient(gradient: Gradient, z: Array, level: Noise) -> Array:
    value = gradient(z, level)
    if value.shape != z.shape:
        raise ValueError(f"a gradient in z of shape {z.shape} cannot have the shape {value.shape}")
    return value
