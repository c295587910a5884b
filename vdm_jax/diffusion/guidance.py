"""Guidance by a class or a text c: classifier (Dhariwal & Nichol 2021), classifier-free (Ho & Salimans 2022), CLIP.

All of it adds a multiple of ∇ log p(c|z) to a score. With S its multiple over the *unconditional* score,

    ∇ log p(z) + S ∇ log p(c|z) = ∇ log p(z|c) + w ∇ log p(c|z),      S = 1 + w,

so S = 0 is the unconditional model and S = 1, w = 0 the conditional one. The names in use, and what they are here:

    S        argument                         what the papers write
    1 + w    guidance_weight=w                (1 + w) ε̂_c − w ε̂_∅, the classifier-free paper
    g        guidance_weight=from_scale(g)    ε̂_∅ + g (ε̂_c − ε̂_∅), the "guidance scale" of GLIDE and DALL·E 2
    s        classifier_scale=s               ADM's classifier scale on an unconditional model
    1 + s    classifier_scale=s               ADM's classifier scale on a conditional model

The coefficients of ε̂_c and ε̂_∅ add up to one: where c says nothing, guidance does nothing. Where guidance acts:

  * `classifier_free` and `classifier` shift the score. They make a `Predict`, for every step rule, schedule, process
    and target: ε̂ and x̂ are combined, whatever the network gave, with the variance head of the conditional half.
    `thresholds` act on the result, so wrap them around it. (ADM's code clips before it shifts: wrap the other way.)
  * `mean_shift` shifts the mean of a reverse step by Σ, learned for every channel and pixel or not. It is the first
    order in Σ, and exact where log p(c|z) is linear. Under an ancestral step the score shift moves the mean by the
    scalar σ²_{t|s}/α_{t|s} instead.

Guided *samples* do not follow p(z|c) p(c|z)^w: these densities of different t are not each other's diffusions, and SDE
and ODE come to different ends. What holds is the score at every t.

A weight is a number, [B] (one for each image), or a function of the level that gives either (`interval`).
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

# A number, [B], or level → number or [B]
Weight = float | Array | Callable[[Noise], Array]
# (z [B, …], level) → ∇_z log p(c|z) [B, …]
Gradient = Callable[[Array, Noise], Array]


def from_scale(scale: float | Array) -> float | Array:
    """The w of a scale that is 1 for the conditional model, w = scale − 1."""
    return scale - 1


def classifier_free(
    denoise: Denoise, split: Callable[..., Prediction], cond: Any, null: Any, *, guidance_weight: Weight
) -> Predict:
    """ε̂ = ε̂_c + w (ε̂_c − ε̂_∅), as `samplers.predictor` but guided; one network call for both halves.

    cond: pytree of [B, …]; null: ∅ in the same shapes; split: without clipping. The halves of an image stand next to
    each other, so a batch that is split over devices stays where it is. Where a weight that is a function of the
    level is 0 for all images, ∅ is not evaluated.
    """
    both = predictor(denoise, split, jax.tree.map(_interleaved, cond, null))
    alone = predictor(denoise, split, cond)

    def guided(z: Array, level: Noise) -> Prediction:
        _check_batch(cond, z)
        w = _weight(guidance_weight, z, level)
        found = both(_interleaved(z, z), jax.tree.map(lambda a: a if a.ndim == 0 else _interleaved(a, a), level))
        half = lambda i: jax.tree.map(lambda a: a.reshape(-1, 2, *a.shape[1:])[:, i], found)
        return extrapolate(half(0), half(1), w)

    def where_it_counts(z: Array, level: Noise) -> Prediction:
        return lax.cond(jnp.all(_weight(guidance_weight, z, level) == 0), alone, guided, z, level)

    return where_it_counts if callable(guidance_weight) else guided


def classifier_free_of_several(
    denoise: Denoise, split: Callable[..., Prediction], cond: Any, nulls: Sequence[tuple[Any, Weight]]
) -> Predict:
    """ε̂ = ε̂_c + Σ_i w_i (ε̂_c − ε̂_i), ε̂_i without condition i alone; one network call for all of them.

    For one condition this is `classifier_free`. nulls: of each condition that is guided, cond with ∅ in its place, and
    its weight.
    """
    count = 1 + len(nulls)
    everything = predictor(denoise, split, jax.tree.map(_interleaved, cond, *(null for null, _ in nulls)))

    def guided(z: Array, level: Noise) -> Prediction:
        _check_batch(cond, z)
        repeat = lambda a: a if a.ndim == 0 else _interleaved(*[a] * count)
        found = everything(repeat(z), jax.tree.map(repeat, level))
        part = lambda i: jax.tree.map(lambda a: a.reshape(-1, count, *a.shape[1:])[:, i], found)
        conditional = result = part(0)
        for i, (_, weight) in enumerate(nulls, start=1):
            moved, w = part(i), _weight(weight, z, level)
            result = result._replace(
                x=result.x + w * (conditional.x - moved.x), eps=result.eps + w * (conditional.eps - moved.eps)
            )
        return result

    return guided


def extrapolate(conditional: Prediction, unconditional: Prediction, w: Array | float) -> Prediction:
    """(1 + w) × the one − w × the other, of x̂ and ε̂ alike; the variance head of the first. w: of x̂'s rank, or a number.

    x̂ is linear in ε̂ at a given z, so z = α x̂ + σ ε̂ still holds and nothing is divided by a small α.
    """
    beyond = lambda a, b: a + w * (a - b)
    x, eps = beyond(conditional.x, unconditional.x), beyond(conditional.eps, unconditional.eps)
    return conditional._replace(x=x, eps=eps)


def gradient_of(log_p: Callable[[Array, Noise], Array]) -> Gradient:
    """∇_z of log_p: (z [B, …], level of [B]) → [B] nats, each of its own z alone.

    Of a classifier of noisy images (`class_gradient`), or of a noised CLIP: the product of its normalised embeddings
    times its logit scale estimates log p(z|text) − log p(z), which is log p(text|z) but for a constant.
    """
    return lambda z, level: jax.grad(lambda z: jnp.sum(log_p(z, spread(level, z))))(z)


def class_gradient(logits: Callable[[Array, Noise], Array], labels: Array) -> Gradient:
    """∇_z log p(c|z), p = softmax of the logits (z [B, …], level of [B]) → [B, K]; labels: int [B]."""

    def log_p(z: Array, level: Noise) -> Array:
        _check_batch(labels, z)
        return jnp.take_along_axis(jax.nn.log_softmax(logits(z, level)), labels[:, None], axis=1)[:, 0]

    return gradient_of(log_p)


def classifier(predict: Predict, gradient: Gradient, *, classifier_scale: Weight) -> Predict:
    """ε̂ − s σ ∇ log p(c|z), the score shift, for DDIM, the ODE and the SDEs (Dhariwal & Nichol 2021, algorithm 2)."""

    def guided(z: Array, level: Noise) -> Prediction:
        found = predict(z, level)
        alpha, sigma = expand(level.alpha, z.ndim), expand(level.sigma, z.ndim)
        pull = sigma * _weight(classifier_scale, z, level) * _gradient(gradient, z, level)
        return found._replace(x=found.x + sigma / alpha * pull, eps=found.eps - pull)

    return guided


def mean_shift(reverse: Reverse, gradient: Gradient, *, classifier_scale: Weight) -> Reverse:
    """z_s ~ N(μ + s Σ ∇ log p(c|z_t), Σ) (Dhariwal & Nichol 2021, algorithm 1); `reverse.drawn` makes it a step."""

    def guided(z: Array, transition: Transition) -> tuple[Array, Array]:
        mean, log_variance = reverse(z, transition)
        scale = _weight(classifier_scale, z, transition.frm)
        return mean + scale * jnp.exp(log_variance) * _gradient(gradient, z, transition.frm), log_variance

    return guided


def interval(weight: float | Array, gamma_min: float, gamma_max: float) -> Callable[[Noise], Array]:
    """The weight at γ_min ≤ γ ≤ γ_max and 0 elsewhere (Kynkäänniemi et al. 2024); log SNR from −γ_max to −γ_min."""
    if not gamma_min < gamma_max:
        raise ValueError(f"an interval of noise levels needs gamma_min < gamma_max, not {gamma_min} and {gamma_max}")
    return lambda level: jnp.where((level.gamma >= gamma_min) & (level.gamma <= gamma_max), weight, 0.0)


def _interleaved(*arrays: Array) -> Array:
    """[B, …] n times → [n B, …]: a_0, b_0, …, a_1, b_1, …"""
    first = arrays[0]
    for other in arrays[1:]:
        if first.shape != other.shape or first.ndim == 0:
            raise ValueError(f"cond and null need the same shapes [B, …], not {first.shape} and {other.shape}")
    return jnp.stack(arrays, axis=1).reshape(-1, *first.shape[1:])


def _check_batch(tree: Any, z: Array) -> None:
    for leaf in jax.tree.leaves(tree):
        if leaf.shape[:1] != z.shape[:1]:
            raise ValueError(f"{z.shape[0]} images need a condition each; one has the shape {leaf.shape}")


def _weight(weight: Weight, z: Array, level: Noise) -> Array:
    """The weight here, of z's rank or a scalar."""
    value = jnp.asarray(weight(level) if callable(weight) else weight, z.dtype)
    if value.shape not in ((), z.shape[:1]):
        raise ValueError(f"a weight is a number or one for each of {z.shape[0]} images, not of shape {value.shape}")
    return expand(value, z.ndim)


def _gradient(gradient: Gradient, z: Array, level: Noise) -> Array:
    found = gradient(z, level)
    if found.shape != z.shape:
        raise ValueError(f"a gradient in z of shape {z.shape} cannot have the shape {found.shape}")
    return found
