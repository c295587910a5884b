"""Retrieval and calibration against hand-made cases and known distributions."""

import math

import numpy as np
import pytest
from scipy import special

from vdm_jax.contrastive import retrieval


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_ranks_count_the_wrong_candidates_that_are_as_similar() -> None:
    queries, candidates = np.array([[1.0, 0.0]] * 4), np.array([[0.5, 0], [0.9, 0], [0.5, 0], [0.1, 0]])
    np.testing.assert_array_equal(retrieval.ranks(queries, candidates, np.arange(4)), [2, 0, 2, 3])


def test_any_caption_of_the_same_meaning_is_right() -> None:
    queries, candidates = np.array([[1.0, 0.0]] * 3), np.array([[0.1, 0], [0.9, 0], [0.5, 0]])
    np.testing.assert_array_equal(retrieval.ranks(queries, candidates, np.array([7, 7, 1])), [0, 0, 1])


def test_blocks_of_queries_give_the_ranks_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = unit(rng, 50, 4), unit(rng, 50, 4)
    whole = retrieval.ranks(a, b, np.arange(50))
    monkeypatch.setattr(retrieval, "_BLOCK", 7)
    np.testing.assert_array_equal(retrieval.ranks(a, b, np.arange(50)), whole)


def test_recall_of_chance_is_k_of_n() -> None:
    rng, n = np.random.default_rng(0), 2000
    found = retrieval.recalls(unit(rng, n, 64), unit(rng, n, 64), np.arange(n))
    for k in (1, 5, 10):
        for way in ("image_to_text", "text_to_image"):
            error = math.sqrt(k / n * (1 - k / n) / n)
            assert abs(found[f"{way}_at_{k}"] - k / n) < 4 * error


def test_draws_have_distinct_captions_and_every_example_can_be_drawn() -> None:
    same = np.array([0, 0, 0, 1, 1, 2, 3, 4])
    found = retrieval.draws(same, 4, 200, seed=1)
    assert all(len(set(same[chosen])) == 4 for chosen in found)
    assert set(np.concatenate(found)) == set(range(8))
    with pytest.raises(ValueError, match="6 candidates with distinct captions were requested and there are 5"):
        retrieval.draws(same, 6, 1, seed=1)


def test_the_error_over_draws_is_that_of_their_mean() -> None:
    rng, n = np.random.default_rng(0), 400
    image = unit(rng, n, 16)
    text = image + 1.2 * unit(rng, n, 16)
    text /= np.linalg.norm(text, axis=-1, keepdims=True)
    found = retrieval.summarize(image, text, np.arange(n), 3.0, candidates=64, count=40, seed=0)
    sets = retrieval.draws(np.arange(n), 64, 40, 0)
    each = [retrieval.recalls(image[s], text[s], s)["image_to_text_at_1"] for s in sets]
    assert found["image_to_text_at_1"] == pytest.approx(np.mean(each))
    assert found["image_to_text_at_1_standard_error"] == pytest.approx(np.std(each, ddof=1) / math.sqrt(40))
    assert 0.3 < found["image_to_text_at_1"] < 1


def test_the_scale_that_made_the_data_is_the_best_one() -> None:
    """Captions are drawn from softmax(e^s ⟨image, text⟩), so s minimizes the cross-entropy and is calibrated."""
    rng, n, scale = np.random.default_rng(0), 20_000, 2.5
    image, candidates = unit(rng, n, 8), unit(rng, 40, 8)
    p = special.softmax(math.exp(scale) * image @ candidates.T, axis=1)
    drawn = np.array([rng.choice(40, p=row) for row in p])
    logits = lambda s: math.exp(s) * image @ candidates.T
    entropy = lambda s: float(np.mean(special.logsumexp(logits(s), axis=1) - logits(s)[np.arange(n), drawn]))
    assert entropy(scale) < entropy(scale - 0.2) and entropy(scale) < entropy(scale + 0.2)
    confidence, correct = p.max(1), p.argmax(1) == drawn
    assert retrieval.calibration_error(confidence, correct) < 0.02
    sharp = special.softmax(2 * logits(scale), axis=1).max(1)
    assert retrieval.calibration_error(sharp, correct) > 0.05


def test_calibration_finds_the_minimum() -> None:
    rng, n = np.random.default_rng(1), 200
    image = unit(rng, n, 8)
    text = image + 0.6 * unit(rng, n, 8)
    text /= np.linalg.norm(text, axis=-1, keepdims=True)
    found = retrieval.calibration(image, text, np.arange(n), 1.0)
    assert found["best_cross_entropy"] < found["cross_entropy"]
    for step in (-0.05, 0.05):
        moved = retrieval.calibration(image, text, np.arange(n), found["best_log_scale"] + step)
        assert moved["cross_entropy"] > found["best_cross_entropy"]


def test_the_calibration_error_of_known_bins() -> None:
    """Two bins of half the examples each, with gaps of 0.25 and 0.1."""
    confidence = np.array([0.75] * 4 + [0.9] * 4)
    correct = np.array([1, 0, 1, 0, 1, 1, 1, 1], bool)
    assert retrieval.calibration_error(confidence, correct) == pytest.approx(0.5 * 0.25 + 0.5 * 0.1)
