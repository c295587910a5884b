"""Prompts, the ensemble of templates, and accuracies."""

import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.contrastive import zero_shot
from vdm_jax.errors import UserError


def test_prompts_are_class_by_class() -> None:
    made = zero_shot.prompts(["cat", "dog"], ["a {}.", "no {}"])
    assert made.texts() == ["a cat.", "no cat", "a dog.", "no dog"]


def test_the_ensemble_is_the_normalized_mean_of_normalized_embeddings() -> None:
    text = np.array([[1.0, 0], [0, 1.0], [0, 1.0], [0, 1.0]])
    found = zero_shot.class_embeddings(jnp.asarray(text), 2)
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5], [0, 1]], rtol=1e-6)


def test_accuracies_of_known_ranks() -> None:
    rank, labels = np.array([0, 0, 1, 4, 5, 0]), np.array([0, 0, 0, 1, 1, 2])
    found = zero_shot.summarize(rank, labels, zero_shot.prompts(["a", "b", "c"]))
    assert found["top1"] == pytest.approx(3 / 6) and found["top5"] == pytest.approx(5 / 6)
    assert found["mean_per_class"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert found["top1_standard_error"] == pytest.approx((0.25 / 5) ** 0.5)


def test_prompts_are_read_from_json(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"classes": ["cat"]}))
    assert zero_shot.read(str(path)).texts() == ["a photo of a cat."]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"classes": []}', "classes must be a list of nonempty strings, not []"),
        ('{"classes": "cat"}', "classes must be a list of nonempty strings, not 'cat'"),
        ('{"classes": ["cat"], "templates": ["a photo"]}', "the template 'a photo' has no {} for the name of a class"),
        ('{"templates": ["{}"]}', "is not a readable JSON file"),
        ("[]", "is not a readable JSON file"),
        ("{", "is not a readable JSON file"),
    ],
)
def test_unusable_prompts_are_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(content)
    with pytest.raises(UserError, match=re.escape(sentence)) as raised:
        zero_shot.read(str(path))
    assert "config.evaluation.prompts" in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.evaluation\.prompts='.*' is not a readable JSON file"):
        zero_shot.read(str(tmp_path / "none.json"))
