"""A CLIP in a notebook: embeddings, similarities, classification, and guidance of a diffusion by it."""

import re
from typing import Any

import jax
import numpy as np
import pytest

from tests.training import runs
from vdm_jax import config as configs
from vdm_jax import methods
from vdm_jax.api.clip import ClipModel
from vdm_jax.api.model import Model
from vdm_jax.errors import UserError

CAPTIONS = ["a small red circle", "blue", "a large green cross at the left"]


@pytest.fixture(scope="module")
def model() -> ClipModel:
    config = runs.clip()
    method = methods.build(config)
    return ClipModel(config, method, jax.jit(method.init)(jax.random.key(0)), 7)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)


def test_embeddings_have_norm_one_and_do_not_depend_on_the_batch(model: ClipModel, images: np.ndarray) -> None:
    image = model.encode_image(images, progress=False)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), np.ones(5), rtol=1e-5)
    np.testing.assert_allclose(model.encode_image(images, batch_size=2, progress=False), image, atol=1e-5)
    text = model.encode_text(CAPTIONS, progress=False)
    np.testing.assert_allclose(np.linalg.norm(text.embedding, axis=1), np.ones(3), rtol=1e-5)
    np.testing.assert_allclose(model.encode_text("blue", progress=False).embedding[0], text.embedding[1], atol=1e-5)
    assert text.tokens.shape == (3, 12, 16) and text.mask.shape == (3, 12)
    assert text.mask[1].sum() < text.mask[0].sum() and np.all(text.mask[:, 0])


def test_similarities_are_cosines_and_probabilities_their_softmax(model: ClipModel, images: np.ndarray) -> None:
    cosines = model.similarity(images, CAPTIONS, progress=False)
    expected = model.encode_image(images, progress=False) @ model.encode_text(CAPTIONS, progress=False).embedding.T
    np.testing.assert_allclose(cosines, expected, atol=1e-5)
    assert model.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    logits = model.logit_scale * cosines
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(model.classify(images, CAPTIONS, progress=False), softmax, rtol=2e-4)


def test_templates_are_averaged(model: ClipModel, images: np.ndarray) -> None:
    found = model.classify(images, ["red", "blue"], templates=["a {}", "there is a {}"], progress=False)
    rows = []
    for name in ("red", "blue"):
        each = model.encode_text([f"a {name}", f"there is a {name}"], progress=False).embedding.mean(0)
        rows.append(each / np.linalg.norm(each))
    logits = model.logit_scale * model.encode_image(images, progress=False) @ np.array(rows).T
    np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=2e-4)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m, x: m.encode_image(x / 255), "images must be integers from 0 to 255, not float64"),
        (
            lambda m, x: m.encode_image(x[:, :16]),
            "images have shape (5, 16, 32, 3), but this model takes [N, 32, 32, 3]",
        ),
        (lambda m, x: m.encode_text([]), "captions must be a string or a list of at least one string"),
        (lambda m, x: m.encode_text([3]), "captions must be a string or a list of at least one string"),
        (lambda m, x: m.classify(x, "red"), "classes must be a list of nonempty strings"),
        (lambda m, x: m.classify(x, ["red"], templates=["a photo"]), "has no {} for the name of a class"),
    ],
)
def test_what_is_not_an_image_or_a_caption_is_one_sentence(
    model: ClipModel, images: np.ndarray, call: Any, sentence: str
) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)) as raised:
        call(model, images)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_it_guides_a_diffusion() -> None:
    """Scale 0 gives the unguided samples, and a scale changes them by its caption."""
    noised = configs.choose(runs.clip(), {"model.noised": True, "data.shape": (16, 16, 3), "model.patch": 8})
    noised.schedule.kind, noised.schedule.num_timesteps = "ddpm_linear", 50
    method = methods.build(noised)
    guide = ClipModel(noised, method, jax.jit(method.init)(jax.random.key(0)), 7)
    config = configs.choose(
        configs.base(), {"data.shape": (16, 16, 3), "data.vocabulary": 256, "sampling.num_steps": 3}
    )
    config.model.width, config.model.groups, config.model.depth = 8, 4, 1
    made = methods.build(config)
    model = Model(config, made, jax.jit(made.init)(jax.random.key(1)), 3)
    plain = model.sample(2, progress=False)
    np.testing.assert_array_equal(model.sample(2, clip=guide, clip_scale=0.0, caption="red", progress=False), plain)
    red = model.sample(2, clip=guide, clip_scale=30.0, caption="red", progress=False)
    blue = model.sample(2, clip=guide, clip_scale=30.0, caption=["blue", "red"], progress=False)
    assert not np.array_equal(red, plain) and not np.array_equal(red[0], blue[0])
    np.testing.assert_array_equal(red[1], blue[1])
    with pytest.raises(UserError, match="clip_scale has no effect without a clip"):
        model.sample(2, clip_scale=2.0)
    with pytest.raises(UserError, match="clip must be a model, not Model"):
        model.sample(2, clip=model, caption="red")  # type: ignore[arg-type]
