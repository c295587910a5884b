"""Training that starts from weights with other labels: the vectors of classes are new, the rest is theirs."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from tests.convert.test_formats import config as unet
from tests.convert.test_formats import saved
from tests.training.runs import points
from vdm_jax import frozen, methods, weights
from vdm_jax.config import check, choose
from vdm_jax.convert import improved_diffusion
from vdm_jax.errors import UserError
from vdm_jax.networks import families
from vdm_jax.training.loop import train


def labeled(count: int) -> Any:
    config = choose(points(), {"model.num_classes": count})
    check(config)
    return config


def published(folder: Any) -> tuple[str, Any, Any]:
    """(a .pt file of an Improved DDPM that knows ten labels, its config, its parameters)."""
    made = choose(unet(), {"model.num_classes": 10})
    s = families.settings(
        "improved", width=32, multipliers=(1, 2), depth=1, attention_at=(4,), outputs=2, num_classes=10
    )
    path, theirs, _ = saved(folder, made, lambda p: improved_diffusion.to_original(p, s, (8, 8, 3)))
    return path, made, theirs


@pytest.mark.slow
def test_a_run_of_ours_is_tuned_to_labels_and_back(tmp_path: Any) -> None:
    config = points()
    config.training.num_steps = config.training.log_every = config.training.checkpoint_every = 2
    state = train(config, epath.Path(tmp_path), finish=False)
    told = labeled(3)
    with pytest.raises(UserError, match=r"belong to another model \(model\.num_classes: 0 there, 3 here\)|num_classes"):
        weights.load(str(tmp_path), told, methods.build(told))
    params, note = weights.to_start_from(str(tmp_path), told, methods.build(told))
    assert note == f"{tmp_path} has 0 classes; the embeddings of 3 classes are initialized from scratch"
    classes = params["network"].pop("classes")["embedding"]
    assert classes.shape[0] == 3 and not np.any(classes)
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(state.ema))
    same, note = weights.to_start_from(str(tmp_path), config, methods.build(config))
    assert note == ""
    jax.tree.map(np.testing.assert_array_equal, same, jax.device_get(state.ema))


def test_published_weights_are_tuned_to_other_labels(tmp_path: Any) -> None:
    """Ten classes in the file, four in the config: all but their vectors is the file's, bit for bit."""
    path, made, theirs = published(tmp_path)
    made.model.num_classes = 4
    params, note = weights.to_start_from(path, made, methods.build(made))
    assert note.endswith("has 10 classes; the embeddings of 4 classes are initialized from scratch")
    new, old = params["network"].pop("classes")["embedding"], theirs["network"].pop("classes")["embedding"]
    assert new.shape == (4, old.shape[1]) and abs(np.std(new) - 1) < 0.2
    jax.tree.map(np.testing.assert_array_equal, params["network"], theirs["network"])


def test_a_null_class_is_added_beside_the_others(tmp_path: Any) -> None:
    """For classifier-free guidance with a model that knew labels; a student takes its teacher as it is."""
    path, made, theirs = published(tmp_path)
    choose(made, {"model.null_class": True, "training.label_dropout": 0.1})
    params, note = weights.to_start_from(path, made, methods.build(made))
    assert note.endswith("has 10 classes; the embedding of the null class is initialized from scratch")
    new = params["network"]["classes"]["embedding"]
    np.testing.assert_array_equal(new[:10], theirs["network"]["classes"]["embedding"])
    assert len(new) == 11 and np.any(new[10])
    choose(made, {"training.distill": "progressive", "training.teacher": path})
    with pytest.raises(UserError, match="num_classes"):
        frozen.load_parts(methods.build(made))
