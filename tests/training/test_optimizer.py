"""AdamW, its schedule, what decay and clipping leave out, and the average: against numpy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from vdm_jax import config as configs
from vdm_jax.training.optimizer import ema_update, learning_rate, optimizer


def settings(**fields: Any) -> ConfigDict:
    config = configs.base()
    config.training.num_steps = 50
    values = {"learning_rate": 0.1, "warmup_steps": 0, "weight_decay": 0.0, "clip": 0.0, **fields}
    for name, value in values.items():
        config.optimizer[name] = value
    return config


PARAMS = {
    "network": {
        "dense": {"kernel": jnp.asarray([[1.0, -2.0]]), "bias": jnp.asarray([0.5, -0.5])},
        "norm": {"scale": jnp.asarray([3.0]), "bias": jnp.asarray([1.0])},
        "down": {"conv": {"kernel": jnp.asarray([[2.0], [4.0]]), "bias": jnp.asarray([[1.0], [2.0]])}},
    },
    "schedule": {"gamma_0": jnp.asarray(-13.0), "span": jnp.asarray(18.0), "shape": {"kernel": jnp.asarray([2.0])}},
}


def after(config: ConfigDict, grads: list[Any], params: Any = PARAMS) -> Any:
    transform = optimizer(config)
    state = transform.init(params)
    for grad in grads:
        updates, state = transform.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return params


def adam(param: np.ndarray, grads: list[np.ndarray], rate: float, b1: float = 0.9, b2: float = 0.99) -> np.ndarray:
    """Kingma & Ba 2015, algorithm 1, in float64."""
    m, v = 0.0, 0.0
    for n, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        param = param - rate * (m / (1 - b1**n)) / (np.sqrt(v / (1 - b2**n)) + 1e-8)
    return param


def filled(value: float) -> Any:
    return jax.tree.map(lambda a: jnp.full_like(a, value), PARAMS)


def test_weight_decay_pulls_on_kernels_alone() -> None:
    moved = after(settings(weight_decay=0.5), [filled(0.0)])
    network, before = moved["network"], PARAMS["network"]
    for part in (("dense",), ("down", "conv")):
        now, then = network, before
        for name in part:
            now, then = now[name], then[name]
        np.testing.assert_allclose(now["kernel"], (1 - 0.1 * 0.5) * np.asarray(then["kernel"]), rtol=1e-6)
        np.testing.assert_array_equal(now["bias"], then["bias"])  # of rank 2 under a scan, and still a bias
    np.testing.assert_array_equal(network["norm"]["scale"], before["norm"]["scale"])
    for now, then in zip(jax.tree.leaves(moved["schedule"]), jax.tree.leaves(PARAMS["schedule"]), strict=True):
        np.testing.assert_array_equal(now, then)


def test_schedule_is_outside_the_clip() -> None:
    # Clipping rescales the network's gradient by its own norm; a schedule gradient of 10⁶ in the norm
    # would scale it to nothing. Adam hides scales, so its epsilon is made large enough to show them.
    grads = filled(2.0)
    grads["schedule"] = jax.tree.map(lambda a: jnp.full_like(a, 1e6), grads["schedule"])
    count = sum(leaf.size for leaf in jax.tree.leaves(PARAMS["network"]))
    scaled = 2.0 / np.sqrt(4.0 * count)
    moved = after(settings(clip=1.0, eps=1.0), [grads])
    expected = np.asarray([0.5, -0.5]) - 0.1 * scaled / (scaled + 1.0)
    np.testing.assert_allclose(moved["network"]["dense"]["bias"], expected, rtol=1e-6)
    np.testing.assert_allclose(moved["schedule"]["gamma_0"], -13.0 - 0.1 * 1e6 / (1e6 + 1), rtol=1e-6)
    small = jax.tree.map(lambda a: jnp.full_like(a, 1e-3), PARAMS)
    unclipped = after(settings(clip=1.0, eps=1.0), [small])["network"]["norm"]["scale"]
    np.testing.assert_allclose(unclipped, 3.0 - 0.1 * 1e-3 / (1e-3 + 1), rtol=1e-6)


def test_adam_by_hand_with_a_rate_of_its_own_for_the_schedule() -> None:
    rng = np.random.default_rng(0)
    grads = [jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), PARAMS) for _ in range(5)]
    moved = after(settings(schedule_learning_rate=0.01), grads)
    pick = lambda tree, *names: np.asarray(tree[names[0]] if len(names) == 1 else pick(tree[names[0]], *names[1:]))
    for names, rate in ((("network", "dense", "kernel"), 0.1), (("schedule", "span"), 0.01)):
        expected = adam(pick(PARAMS, *names), [pick(g, *names).astype(np.float64) for g in grads], rate)
        np.testing.assert_allclose(pick(moved, *names), expected, rtol=1e-5)
    same = after(settings(), grads)
    expected = adam(pick(PARAMS, "schedule", "span"), [pick(g, "schedule", "span").astype(float) for g in grads], 0.1)
    np.testing.assert_allclose(same["schedule"]["span"], expected, rtol=1e-5)


@pytest.mark.parametrize("decay", ["constant", "cosine"])
def test_warm_up_then_decay(decay: str) -> None:
    config = settings(warmup_steps=10, decay=decay)
    rate = learning_rate(config, 0.4)
    steps = np.arange(51)
    expected = 0.4 * np.minimum(steps / 10, 1.0)
    if decay == "cosine":
        expected[10:] = 0.4 * 0.5 * (1 + np.cos(np.pi * (steps[10:] - 10) / 40))
    np.testing.assert_allclose([float(rate(n)) for n in steps], expected, rtol=1e-5, atol=1e-7)


def test_average_follows_its_formula() -> None:
    rng = np.random.default_rng(1)
    for limit in (0.5, 0.9999):
        average, values = 1.0, rng.normal(size=30)
        ours = {"a": jnp.asarray(1.0)}
        for n, value in enumerate(values):
            d = min(limit, (1 + n) / (10 + n))
            average = d * average + (1 - d) * value
            ours = ema_update(ours, {"a": jnp.asarray(value, jnp.float32)}, jnp.int32(n), limit)
        np.testing.assert_allclose(ours["a"], average, rtol=1e-5)
