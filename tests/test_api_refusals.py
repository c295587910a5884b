"""What the functions of a model refuse in a notebook: a sentence each, and nothing is traced or compiled before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.training.runs import images
from vdm_jax import Pipeline, api, methods
from vdm_jax.api import batches
from vdm_jax.conditioning.low_resolution import LowResolution
from vdm_jax.errors import UserError

X = np.random.default_rng(0).integers(0, 17, (3, 8, 8, 1))
HOLE = np.zeros((8, 8, 1), bool)
Z = np.zeros((3, 8, 8, 1), np.float32)


class Untraced:
    """A parameter that no function may use."""

    def __jax_array__(self) -> jax.Array:
        raise AssertionError("the parameters were used")


def model(config: ConfigDict | None = None) -> Any:
    config = images() if config is None else config
    return api.Model(config, methods.build(config), {"network": Untraced(), "schedule": Untraced()}, 0)


TAKES_IMAGES: dict[str, Callable[[Any, Any], Any]] = {
    "bits_per_dim": lambda m, x: m.bits_per_dim(x),
    "inpaint": lambda m, x: m.inpaint(x, HOLE),
    "vary": lambda m, x: m.vary(x),
    "encode": lambda m, x: m.encode(x),
    "noise": lambda m, x: m.noise(x, 0.0),
}


@pytest.mark.parametrize("function", TAKES_IMAGES)
def test_images_that_are_no_pixels_of_the_model_are_refused(function: str) -> None:
    wrong = {
        r"^images must be integers from 0 to 16, not float64 .* pass np\.round\(x \* 16\)\.astype\(int\)$": X / 16,
        r"^images must be integers from 0 to 16, not 0 to 17; ": np.where(X == 16, 17, X),
        r"^images must be finite numbers": np.where(X == 16, np.nan, X),
        r"^images have shape \(0, 8, 8, 1\), so there are none; pass at least one": X[:0],
        r"^images have shape \(3, 8, 8\), but this model takes \[N, 8, 8, 1\]": X[..., 0],
        r"^images have shape \(\), but this model takes \[N, 8, 8, 1\]": 3,
    }
    for sentence, x in wrong.items():
        with pytest.raises(UserError, match=sentence):
            TAKES_IMAGES[function](model(), x)


def test_small_images_of_an_upsampler_that_are_no_pixels_are_refused() -> None:
    condition = LowResolution(side=8, channels=1, vocabulary=17)
    accepted = condition.from_user(X.astype(float), 3, lambda x: x)
    np.testing.assert_array_equal(accepted, X)
    with pytest.raises(UserError, match=r"^low_resolution must be integers from 0 to 16, not float64 .*x \* 16"):
        condition.from_user(X / 16, 3, lambda x: x)


WRONG: dict[str, Callable[[Any], Any]] = {
    r"^count=0 must be an integer of at least 1$": lambda m: m.sample(0),
    r"^count=-1 must be": lambda m: m.sample(-1),
    r"^count=2\.5 must be": lambda m: m.sample(2.5),
    r"^count=0 must": lambda m: Pipeline((m,)).sample(0),
    r"^seed=0\.5 must be an integer from 0": lambda m: m.sample(2, seed=0.5),
    r"^batch_size=0 must be an integer of at least 1$": lambda m: m.sample(2, batch_size=0),
    r"^num_steps=2\.5 must be an integer": lambda m: m.sample(2, num_steps=2.5),
    r"^count=True must be an integer": lambda m: m.sample(True),
    r"^num_steps='9' must be an integer, as in config\.sampling\.num_steps$": lambda m: m.sample(2, num_steps="9"),
    r"^sampler=3 must be a name, as in config\.sampling\.sampler$": lambda m: m.sample(2, sampler=3),
    r"^classifier must be a model, not str; pass vdm_jax\.load": lambda m: m.sample(2, classifier="runs/classifier"),
    r"^classifier_scale has no effect without a classifier": lambda m: m.sample(2, classifier_scale=2.0),
    r"^path=None must be the path of a working directory": lambda m: api.load(None),
    r"^there is nothing at '/none'; pass a working directory": lambda m: api.load("/none"),
    r"^there is nothing at ''; pass a working directory": lambda m: api.load(""),
    r"^config=3 must be a ConfigDict or a name": lambda m: api.load("/", 3),
    r"sampling\.num_steps=0": lambda m: m.sample(2, num_steps=0),
    r"sampling\.sampler='none'": lambda m: m.sample(2, sampler="none"),
    r"^passes=0 must be an integer of at least 1$": lambda m: m.bits_per_dim(X, passes=0),
    r"^passes=1\.5 must": lambda m: m.bits_per_dim(X, passes=1.5),
    r"^gamma must be one number, not an array of shape \(3,\); call once": lambda m: m.noise(X, np.zeros(3)),
    r"^gamma must be one number, not .* \(3, 1\)": lambda m: m.denoise(Z, np.zeros((3, 1))),
    r"^latents have shape \(3, 9, 9, 1\), but this model takes \[N, 8, 8, 1\]$": lambda m: m.decode(
        np.zeros((3, 9, 9, 1))
    ),
    r"^latents have shape \(3, 9, 8, 1\)": lambda m: m.denoise(np.zeros((3, 9, 8, 1)), 0.0),
    r"^latents have shape \(0, 8, 8, 1\), so there are none": lambda m: m.decode(Z[:0]),
    r"^latents must be finite numbers, but 192 of 192": lambda m: m.decode(Z + np.nan),
    r"^latents must be finite numbers, but 1 ": lambda m: m.denoise(np.where(np.arange(192) == 3, np.inf, 0), 0.0),
    r"^known has shape \(9, 9, 1\), which does not broadcast to the images' \(3, 8, 8, 1\); pass .* \(8, 8, 1\) or": (
        lambda m: m.inpaint(X, np.zeros((9, 9, 1), bool))
    ),
    r"^known has shape \(2, 3, 8, 8, 1\)": lambda m: m.inpaint(X, np.zeros((2, 3, 8, 8, 1), bool)),
    r"^known must be a mask of True .* and False": lambda m: m.inpaint(X, np.full((8, 8, 1), 0.5)),
    r"^repeats=0 must be an integer of at least 1$": lambda m: m.inpaint(X, HOLE, repeats=0),
    r"^strength=0\.1 runs none of the 4 steps; pass at least 0\.25$": lambda m: m.vary(X, 0.1, num_steps=4),
    r"^strength must be one number": lambda m: m.vary(X, np.ones(3)),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_arguments_are_a_sentence(sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        WRONG[sentence](model())
    assert "\n" not in str(error.value)


def test_more_samples_than_memory_holds_are_refused() -> None:
    for count, trajectory in ((10**11, False), (2 * 10**9, True)):
        with pytest.raises(UserError, match=rf"^count={count} samples take .* draw fewer at a time"):
            model().sample(count, trajectory=trajectory)


def test_exhausted_memory_names_the_batch_size() -> None:
    """A program that needs 40 TB."""
    program = jax.jit(lambda params, shared, rows: jax.numpy.full((10**13,), rows["x"][0]))
    rows = {"x": np.ones(5, np.float32)}
    with pytest.raises(UserError, match=r"^out of memory .*; pass a batch_size smaller than 4 or fewer ex") as told:
        batches.run(program, None, [None], rows, 5, batches.Batching(4, progress=False))
    assert isinstance(told.value.__cause__, jax.errors.JaxRuntimeError)
