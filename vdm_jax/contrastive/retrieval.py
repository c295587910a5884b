"""Retrieval between images and captions, and the calibration of its temperature, on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import optimize, special

AT = (1, 5, 10)
BINS = 10
_BLOCK = 1024  # queries whose similarities are in memory at once


def ranks(queries: np.ndarray, candidates: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Return for each query the number of wrong candidates that are at least as similar as the best right one, [N].

    Args:
        queries: Embeddings [N, E].
        candidates: Embeddings [N, E] of the other kind; row k belongs to query k.
        same: Integers [N]; candidate j is right for query i if their integers are equal.
    """
    found = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), _BLOCK):
        rows = slice(start, start + _BLOCK)
        similarity = queries[rows] @ candidates.T
        right = same[rows, None] == same[None]
        best = np.max(similarity, axis=1, where=right, initial=-np.inf, keepdims=True)
        found[rows] = np.sum((similarity >= best) & ~right, axis=1)
    return found


def recalls(image: np.ndarray, text: np.ndarray, same: np.ndarray, at: Sequence[int] = AT) -> dict[str, float]:
    """Return recall@k of both directions: the share of queries with a right candidate among the k most similar.

    Args:
        image: Embeddings of images, [N, E].
        text: Embeddings of their captions, [N, E].
        same: As for `ranks`.
        at: The values of k.
    """
    to_text, to_image = ranks(image, text, same), ranks(text, image, same)
    found = {f"image_to_text_at_{k}": float(np.mean(to_text < k)) for k in at}
    return found | {f"text_to_image_at_{k}": float(np.mean(to_image < k)) for k in at}


def draws(same: np.ndarray, candidates: int, count: int, seed: int) -> list[np.ndarray]:
    """Draw `count` sets of indices of `candidates` examples with distinct captions, each set without replacement.

    Raises:
        ValueError: There are fewer distinct captions than candidates.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        order = rng.permutation(len(same))
        _, first = np.unique(same[order], return_index=True)  # one example of each caption, by chance
        if len(first) < candidates:
            raise ValueError(
                f"{candidates} candidates with distinct captions were requested and there are {len(first)}"
            )
        found.append(np.sort(order[rng.permutation(first)[:candidates]]))
    return found


def summarize(
    image: np.ndarray, text: np.ndarray, same: np.ndarray, log_scale: float, candidates: int, count: int, seed: int
) -> dict[str, Any]:
    """Return recalls with their standard errors, the rates of chance, and the calibration of the temperature.

    Args:
        image: Embeddings of norm 1 of images, [N, E].
        text: Embeddings of norm 1 of their captions, [N, E].
        same: As for `ranks`.
        log_scale: The logarithm of the learned inverse temperature.
        candidates: The number of candidates of a draw, with distinct captions; 0 for all examples.
        count: The number of draws.
        seed: The seed of the draws.
    """
    sets = draws(same, candidates, count, seed) if candidates else [np.arange(len(same))]
    rows = [recalls(image[chosen], text[chosen], same[chosen]) for chosen in sets]
    size = candidates or len(same)
    result: dict[str, Any] = {"candidates": size, "draws": len(sets)}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        result[name] = float(values.mean())
        result[f"{name}_standard_error"] = _error(values, size)
    one = sets[0]
    return result | {"chance_at_1": 1 / size, **calibration(image[one], text[one], same[one], log_scale)}


def _error(values: np.ndarray, queries: int) -> float:
    """Return the standard error of a mean over draws, or of a share of `queries` independent queries for one draw."""
    if len(values) > 1:
        return float(values.std(ddof=1) / np.sqrt(len(values)))
    return float(np.sqrt(values[0] * (1 - values[0]) / max(queries - 1, 1)))


def calibration(image: np.ndarray, text: np.ndarray, same: np.ndarray, log_scale: float) -> dict[str, float]:
    """Return how well softmax(exp(log_scale) ⟨image_i, text_j⟩) predicts the captions of images.

    Returns:
        'cross_entropy' in nats at the learned scale, 'best_log_scale' that minimizes it and 'best_cross_entropy' there,
        and 'calibration_error', the expected calibration error in ten bins of equal width (Guo et al. 2017, eq. 3).
    """
    similarity = (image @ text.T).astype(np.float64)
    right = same[:, None] == same[None]

    def cross_entropy(scale: float) -> float:
        logits = np.exp(scale) * similarity
        return float(np.mean(special.logsumexp(logits, axis=1) - special.logsumexp(logits, axis=1, b=right)))

    best = optimize.minimize_scalar(cross_entropy, bounds=(0.0, 8.0), method="bounded").x
    p = special.softmax(np.exp(log_scale) * similarity, axis=1)
    top = p.argmax(axis=1)
    confidence, correct = p.max(axis=1), right[np.arange(len(p)), top]
    return {
        "log_scale": float(log_scale),
        "cross_entropy": cross_entropy(log_scale),
        "best_log_scale": float(best),
        "best_cross_entropy": cross_entropy(best),
        "calibration_error": calibration_error(confidence, correct),
    }


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return Σ_bins (n_bin/N) |mean correct − mean confidence| (Guo et al. 2017, eq. 3); both arguments are [N]."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(place, correct - confidence, bins)
    return float(np.abs(gap).sum() / len(confidence))


def words(result: dict[str, Any]) -> str:
    """Return a result of `summarize` as 'image → caption 0.962 ± 0.004 at 1, …'."""
    value = lambda name, k: f"{result[f'{name}_at_{k}']:.3f} ± {result[f'{name}_at_{k}_standard_error']:.3f} at {k}"
    to_text = ", ".join(value("image_to_text", k) for k in AT)
    to_image = ", ".join(value("text_to_image", k) for k in AT)
    among = f"{result['candidates']:,} candidates" + (f", {result['draws']} draws" if result["draws"] > 1 else "")
    return (
        f"{result['split']} recall among {among}: image to caption {to_text}; caption to image {to_image} "
        f"(chance {result['chance_at_1']:.4f} at 1; {result['dataset']})"
    )
