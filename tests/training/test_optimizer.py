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
from vdm_jax.optimizer import ema_update, learning_rate, optimizer


def settings(**fields: Any) -> ConfigDict:
    config = configs.base()
    config.training.num_steps = 50
    values = {"learning_rate": 0.1, "warmup_steps": 0, "weight_decay": 0.0, "clip": 0.0, **fields}
    return configs.choose(config, {f"optimizer.{name}": value for name, value in values.items()})


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


@pytest.mark.slow
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


STACKED = {
    "network": {
        "conv_in": {"kernel": (3, 3, 2, 4), "bias": (4,)},
        "mid1": {"conv1": {"kernel": (3, 3, 4, 6), "bias": (6,)}},
        "up": {"res": {"conv1": {"kernel": (2, 3, 3, 4, 6)}, "cond_proj": {"kernel": (2, 8, 5)}}},
    },
    "schedule": {"gamma_0": (), "span": ()},
}


def moved_by_muon(**fields: Any) -> tuple[Any, Any]:
    """(gradient, update) of the first step on the leaves above; parameters are all 1."""
    rng = np.random.default_rng(2)
    is_shape = lambda node: isinstance(node, tuple)
    grads = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s), jnp.float32), STACKED, is_leaf=is_shape)
    params = jax.tree.map(jnp.ones_like, grads)
    moved = after(settings(name="muon", muon_learning_rate=0.02, **fields), [grads], params)
    return grads, jax.tree.map(lambda new, old: np.asarray(new - old), moved, params)


@pytest.mark.slow
def test_muon_moves_every_matrix_of_a_stack_along_its_polar_factor() -> None:
    # U Vᵀ of the gradient [inputs, outputs], where a convolution's inputs are height · width · channels,
    # times 0.2 √max(inputs, outputs) (Liu et al. 2025). Newton–Schulz gives singular values near 1.
    grads, updates = moved_by_muon()
    network, moved = grads["network"], updates["network"]
    matrices = [(network["mid1"]["conv1"]["kernel"].reshape(36, 6), moved["mid1"]["conv1"]["kernel"].reshape(36, 6))]
    for layer in range(2):
        for name, shape in (("conv1", (36, 6)), ("cond_proj", (8, 5))):
            stacks = (tree["up"]["res"][name]["kernel"][layer].reshape(shape) for tree in (network, moved))
            matrices.append(tuple(stacks))
    for grad, update in matrices:
        u, _, v = np.linalg.svd(np.asarray(grad, np.float64), full_matrices=False)
        polar, scale = u @ v, 0.02 * 0.2 * np.sqrt(max(grad.shape))
        cosine = -np.sum(polar * update) / np.linalg.norm(polar) / np.linalg.norm(update)
        assert cosine > 0.95
        values = np.linalg.svd(update / scale, compute_uv=False)
        assert values.min() > 0.6 and values.max() < 1.3


@pytest.mark.slow
def test_muon_leaves_edges_biases_and_the_schedule_to_adam() -> None:
    _, updates = moved_by_muon(schedule_learning_rate=0.01)
    # Adam's first step is its rate in every direction; with Nesterov's momentum b₁/(1 + b₁) more.
    first = 0.1 * (1 + 0.9 / 1.9)
    for leaf in (updates["network"]["conv_in"]["kernel"], updates["network"]["mid1"]["conv1"]["bias"]):
        np.testing.assert_allclose(np.abs(leaf), first, rtol=1e-4)
    for leaf in jax.tree.leaves(updates["schedule"]):
        np.testing.assert_allclose(np.abs(leaf), 0.01, rtol=1e-4)


@pytest.mark.slow
def test_weight_decay_of_muon_is_for_its_kernels() -> None:
    _, plain = moved_by_muon()
    _, decayed = moved_by_muon(weight_decay=0.5)
    change = jax.tree.map(lambda a, b: a - b, decayed, plain)["network"]
    np.testing.assert_allclose(change["mid1"]["conv1"]["kernel"], -0.02 * 0.5, atol=1e-6)
    np.testing.assert_array_equal(change["mid1"]["conv1"]["bias"], 0)


@pytest.mark.parametrize("decay", ["constant", "cosine"])
def test_warm_up_then_decay(decay: str) -> None:
    config = settings(warmup_steps=10, decay=decay)
    rate = learning_rate(config, 0.4)
    steps = np.arange(51)
    expected = 0.4 * np.minimum(steps / 10, 1.0)
    if decay == "cosine":
        expected[10:] = 0.4 * 0.5 * (1 + np.cos(np.pi * (steps[10:] - 10) / 40))
    np.testing.assert_allclose([float(rate(n)) for n in steps.tolist()], expected, rtol=1e-5, atol=1e-7)


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
