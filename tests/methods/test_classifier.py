"""The noisy classifier as a method: exact posteriors of a mixture, proper scores, levels, and a run from end to end."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import inspection, methods, modes, weights
from vdm_jax.config import base, check, choose
from vdm_jax.core.method import Context
from vdm_jax.errors import UserError
from vdm_jax.evaluation import likelihood
from vdm_jax.keys import example_keys
from vdm_jax.methods import classifier, ddpm

K, T, SPREAD = 3, 20, 0.3
SHAPE = (4, 4, 1)
MEANS = np.random.default_rng(0).standard_normal((K, *SHAPE))


def settings(**changes: Any) -> ConfigDict:
    """A tiny ADM classifier of K classes, T levels."""
    parts = {
        "method": "classifier",
        "model.network": "multiscale",
        "model.family": "adm",
        "model.num_classes": K,
        "schedule.kind": "ddpm_linear",
    }
    config = choose(base(), parts)
    config.data.shape, config.data.vocabulary = SHAPE, 0
    config.model.width, config.model.depth, config.model.groups, config.model.head_channels = 8, 1, 4, 4
    config.model.multipliers, config.model.attention_at = (1.0, 2.0), (2,)
    config.schedule.num_timesteps, config.schedule.beta_max = T, 15.0
    choose(config, {name.replace("__", "."): value for name, value in changes.items()})
    check(config)
    return config


class Exact:
    """Logits of the posterior of x ~ N(mean of its class, SPREAD² I), times `scale`, as a network told the level."""

    def __init__(self, config: ConfigDict, scale: Any = 1.0) -> None:
        self.bar, self.scale = np.cumprod(1 - ddpm.betas_of(config)), scale

    def apply(self, _: Any, z: Array, t: Array, *__: Any) -> Array:
        bar = jnp.asarray(self.bar, z.dtype)[jnp.round(t).astype(int)][:, None]
        means = jnp.sqrt(bar)[..., None] * MEANS.reshape(1, K, -1)
        square = jnp.square(z.reshape(len(z), 1, -1) - means).sum(-1)
        return self.scale * -square / (2 * (bar * SPREAD**2 + 1 - bar))


def made(config: ConfigDict, scale: Any = 1.0) -> classifier.Classification:
    net = Exact(config, scale)
    network = lambda params, keys, z, level, cond: net.apply(params, z, level.t)
    return classifier.Classification(replace(ddpm.model(config), network=network))


def batch_of(count: int) -> dict[str, Array]:
    label = jnp.arange(count) % K
    noise = jax.random.normal(jax.random.key(1), (count, *SHAPE))
    return {"x": jnp.asarray(MEANS, jnp.float32)[label] + SPREAD * noise, "cond": {"label": label}}


def keys_for(count: int) -> Array:
    return example_keys(jax.random.key(0), jnp.arange(count))


@jax.jit
def at_levels(scale: Any) -> dict[str, Array]:
    """Means over 1,500 images by level, [T] each."""
    batch, keys, model = batch_of(1500), keys_for(1500), made(settings(), scale)
    judged = lambda index: model.classified({"network": {}}, batch, keys, jnp.full(1500, index))
    return jax.tree.map(lambda found: found.mean(1), jax.lax.map(judged, jnp.arange(T)))


def test_the_exact_posterior_goes_from_certainty_to_chance_and_no_temperature_beats_it() -> None:
    exact, colder, warmer = jax.device_get([at_levels(scale) for scale in (1.0, 1.6, 0.6)])
    assert exact["cross_entropy"][0] < 1e-3 and exact["accuracy"][0] == 1
    assert np.all(np.diff(exact["cross_entropy"][4:-3]) > 0)  # H(c | z_t) grows with t
    assert abs(exact["cross_entropy"][-1] - math.log(K)) < 0.1 and abs(exact["accuracy"][-1] - 1 / K) < 0.15
    uncertain = slice(T // 3, 2 * T // 3)
    for other in (colder, warmer):  # the logarithm is a proper score
        assert np.all(other["cross_entropy"][uncertain] > exact["cross_entropy"][uncertain])
        np.testing.assert_array_equal(other["accuracy"], exact["accuracy"])


def test_one_that_knows_nothing_finds_the_first_class_alone() -> None:
    found = at_levels(0.0)
    np.testing.assert_allclose(found["cross_entropy"], math.log(K), rtol=1e-6)
    np.testing.assert_allclose(found["accuracy"], 1 / K, rtol=1e-6)
    np.testing.assert_array_equal(found["top5"], 1)


def test_training_sees_every_level_and_tells_which() -> None:
    count = 400
    model = made(settings(training__times="stratified"))
    context = Context(keys_for(count), jax.random.key(5), jnp.arange(count), count)

    @jax.jit
    def both() -> Any:
        loss, aux = model.loss({"network": {}}, (), batch_of(count), context)
        index = jnp.round(aux["t"] * T).astype(int) - 1
        return loss, aux, index, model.classified({"network": {}}, batch_of(count), context.keys, index)

    loss, aux, index, direct = both()
    np.testing.assert_array_equal(np.bincount(index, minlength=T), count // T)
    np.testing.assert_allclose(loss, direct["cross_entropy"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(aux["accuracy"], direct["accuracy"])


@pytest.mark.slow
def test_strata_of_levels_estimate_the_mean_over_all() -> None:
    count = 300
    terms = lambda levels: jax.jit(made(settings(evaluation__levels=levels)).terms)(
        {"network": {}}, batch_of(count), keys_for(count)
    )
    every, some = terms(0), terms(6)
    np.testing.assert_allclose(every["total"], every["at_t"].mean(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(every["accuracy"], 1 - every["error"].mean(1), rtol=1e-4, atol=1e-6)
    for name in ("total", "accuracy"):
        difference = np.asarray(some[name] - every[name])
        assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(count)
        assert difference.std() > 0


def test_levels_are_told_in_groups_with_errors_over_images() -> None:
    """Two passes of three images at two levels each; the last image has none in the upper half."""
    t = np.array([[[0.1, 0.9]] * 2 + [[0.1, 0.2]]] * 2)
    loss = np.arange(12.0).reshape(2, 3, 2)
    low, high = likelihood.by_level({"t": t, "at_t": loss}, {"at_t": "cross_entropy"}, groups=2)
    of_images = np.array([loss[:, 0, 0].mean(), loss[:, 1, 0].mean(), loss[:, 2].mean()])
    assert low["t"] == 0.25 and high["t"] == 0.75
    np.testing.assert_allclose(low["cross_entropy"], of_images.mean())
    np.testing.assert_allclose(low["cross_entropy_standard_error"], of_images.std(ddof=1) / math.sqrt(3))
    np.testing.assert_allclose(high["cross_entropy"], loss[:, :2, 1].mean())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__num_classes": 1}, "a classifier needs the data's classes"),
        ({"model__variance": "learned"}, "variance: config.method='classifier' has no such field"),
        ({"training__times": "importance"}, "does not go with config.method='classifier'"),
    ],
)
def test_what_is_no_classifier_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(**changes)


def test_a_method_without_samples_says_so(tmp_path: Any) -> None:
    with pytest.raises(UserError, match="'classifier' draws no samples"):
        modes.run_sample(settings(), epath.Path(tmp_path), None)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_learns_digits_and_its_evaluation_tells_accuracy_by_level(tmp_path: Any, capsys: Any) -> None:
    config = settings()
    config.data.name, config.data.shape, config.data.vocabulary, config.model.num_classes = "digits", (8, 8, 1), 17, 10
    config.model.width, config.model.head_channels, config.model.attention_at = 16, 16, (4,)
    choose(config, {"optimizer.learning_rate": 4e-3, "optimizer.decay": "linear", "optimizer.warmup_steps": 10})
    config.optimizer.weight_decay = 0.05
    config.training.num_steps, config.training.eval_every = 120, 100
    config.training.eval_examples, config.evaluation.passes, config.evaluation.weights = 50, 1, "raw"
    check(config)
    directory = epath.Path(tmp_path / "run")
    modes.run_train(config, directory, None)
    assert not (directory / "samples").exists()
    told = json.loads((directory / "eval.json").read_text())
    assert told["headline"] == ["cross_entropy", "accuracy"] and told["examples"] == 297
    assert told["estimator"] == f"T={T}, {T} levels an image"
    rows = told["by_level"]
    assert rows[0]["error_rate"] < 0.4 < rows[-1]["error_rate"] and rows[0]["cross_entropy"] < rows[-1]["cross_entropy"]
    np.testing.assert_allclose(np.mean([row["error_rate"] for row in rows]), 1 - told["accuracy"], rtol=1e-5)
    capsys.readouterr()
    inspection.run(config, directory, None)
    out = capsys.readouterr().out
    assert "test cross entropy" in out and f"accuracy {told['accuracy']:.4f}" in out
    assert "metrics     train, step 100: loss" in out or "metrics     train, step 120: loss" in out
    method = methods.build(config)
    assert weights.load(str(directory), config, method)[1] == 120
