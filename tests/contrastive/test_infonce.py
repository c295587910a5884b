"""The symmetric InfoNCE loss against closed forms, an independent computation and its invariances."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from vdm_jax.contrastive import infonce

N, E = 7, 5


def unit(seed: int, shape: tuple[int, ...] = (N, E)) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def contrast(
    image: np.ndarray, text: np.ndarray, scale: float = 1.7, same: np.ndarray | None = None
) -> infonce.Contrast:
    index = jnp.arange(len(image))
    ids = None if same is None else jnp.asarray(same)
    return infonce.symmetric(jnp.asarray(image), jnp.asarray(text), jnp.float32(scale), index, same=ids)


def test_orthonormal_pairs_have_the_loss_of_one_large_logit() -> None:
    """log(e^s + N − 1) − s for every example, in both directions."""
    eye, scale = np.eye(N, dtype=np.float32), 1.7
    found = contrast(eye, eye, scale)
    expected = math.log(math.exp(math.exp(scale)) + N - 1) - math.exp(scale)
    np.testing.assert_allclose(found.loss, np.full(N, expected), atol=1e-6)
    np.testing.assert_array_equal(found.image_accuracy, np.ones(N))


def test_equal_embeddings_have_the_loss_and_the_accuracy_of_chance() -> None:
    """log N; a tie is not a hit."""
    one = np.tile(unit(0, (1, E)), (N, 1))
    found = contrast(one, one)
    np.testing.assert_allclose(found.loss, np.full(N, math.log(N)), rtol=1e-5)
    np.testing.assert_array_equal(found.text_accuracy, np.zeros(N))


def test_it_is_the_mean_of_two_cross_entropies() -> None:
    """Computed independently in float64."""
    image, text, scale = unit(1), unit(2), 2.3
    logits = math.exp(scale) * image.astype(np.float64) @ text.astype(np.float64).T
    to_text = special.logsumexp(logits, axis=1) - np.diag(logits)
    to_image = special.logsumexp(logits, axis=0) - np.diag(logits)
    found = contrast(image, text, scale)
    np.testing.assert_allclose(found.image_to_text, to_text, rtol=2e-5)
    np.testing.assert_allclose(found.text_to_image, to_image, rtol=2e-5)
    np.testing.assert_allclose(found.loss, (to_text + to_image) / 2, rtol=2e-5)
    np.testing.assert_array_equal(found.image_accuracy, logits.argmax(1) == np.arange(N))
    np.testing.assert_array_equal(found.text_accuracy, logits.argmax(0) == np.arange(N))


def test_swapping_the_towers_swaps_the_halves() -> None:
    found, swapped = contrast(unit(1), unit(2)), contrast(unit(2), unit(1))
    np.testing.assert_array_equal(found.image_to_text, swapped.text_to_image)
    np.testing.assert_array_equal(found.loss, swapped.loss)


def test_a_common_rotation_changes_nothing_and_a_rotation_of_one_tower_does() -> None:
    rotation, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((E, E)))
    turn = lambda x: (x @ rotation).astype(np.float32)
    found = contrast(unit(1), unit(2)).loss
    np.testing.assert_allclose(contrast(turn(unit(1)), turn(unit(2))).loss, found, rtol=1e-5)
    assert np.abs(contrast(turn(unit(1)), unit(2)).loss - found).max() > 0.1


def test_captions_of_one_meaning_are_not_negatives_of_each_other() -> None:
    """The loss of an example equals that in a batch without the others that mean the same."""
    image, text, same = unit(1), unit(2), np.array([4, 4, 4, 1, 2, 3, 5])
    found = contrast(image, text, same=same)
    for row in range(3):
        rest = [k for k in range(N) if same[k] != 4 or k == row]
        alone = contrast(image[rest], text[rest])
        np.testing.assert_allclose(found.loss[row], alone.loss[rest.index(row)], rtol=1e-5)
    assert np.all(found.loss[:3] < contrast(image, text).loss[:3])
    np.testing.assert_allclose(contrast(image, text, same=np.arange(N)).loss, contrast(image, text).loss)


def test_a_batch_of_one_meaning_has_no_negatives() -> None:
    found = contrast(unit(1), unit(2), same=np.zeros(N, np.int32))
    np.testing.assert_allclose(found.loss, np.zeros(N), atol=1e-6)


def test_rows_of_a_part_of_the_batch_have_the_losses_of_the_batch() -> None:
    """As on one of several devices: the rows 2 … 4, whose candidates are gathered."""
    image, text, rows = unit(1), unit(2), np.arange(2, 5)
    everything = {image[rows].tobytes(): image, text[rows].tobytes(): text}
    gather = lambda a: jnp.asarray(everything[np.asarray(a).tobytes()])
    part = infonce.symmetric(
        jnp.asarray(image[rows]), jnp.asarray(text[rows]), jnp.float32(1.7), jnp.asarray(rows), gather
    )
    np.testing.assert_allclose(part.loss, contrast(image, text).loss[2:5], rtol=1e-6)


def test_the_gradient_of_the_scale_is_that_of_finite_differences() -> None:
    image, text = unit(1), unit(2)
    mean = lambda scale: jnp.mean(contrast(image, text, scale).loss)
    slope = jax.grad(lambda s: jnp.mean(infonce.symmetric(image, text, s, jnp.arange(N)).loss))(jnp.float32(1.7))
    assert float(slope) == pytest.approx(float(mean(1.75) - mean(1.65)) / 0.1, rel=2e-3)


def test_the_projection_bounds_the_scale_and_keeps_its_gradient_inside_the_loss() -> None:
    assert float(infonce.projected(jnp.float32(5.0))) == pytest.approx(math.log(100))
    assert float(infonce.projected(jnp.float32(-1.0))) == -1.0
    inside = lambda s: jnp.mean(infonce.symmetric(unit(1), unit(2), s, jnp.arange(N)).loss)
    assert float(jax.grad(inside)(jnp.float32(math.log(100)))) != 0
    assert float(jax.grad(lambda s: inside(infonce.projected(s)))(jnp.float32(5.0))) == 0
