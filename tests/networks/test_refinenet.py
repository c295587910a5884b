"""NCSN's network: the authors' numbers at random parameters (convert/goldens/README.md), its norms, its size."""

from __future__ import annotations

import json
import re
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from vdm_jax.config import base, check
from vdm_jax.errors import UserError
from vdm_jax.networks.refinenet import EPSILON, RefineNet, enlarged, instance_norm_plus

GOLDEN = Path(__file__).parent.parent / "convert" / "goldens" / "ncsn.npz"
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def shapes(net: RefineNet, channels: int) -> dict[str, tuple[int, ...]]:
    made = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 4, 4, channels)), jnp.zeros(1), jnp.zeros(1))
    return {path: leaf.shape for path, leaf in flatten_dict(made["params"], sep="/").items()}


@pytest.mark.parametrize(("width", "channels", "parameters"), [(128, 3, 30_117_635), (64, 1, 7_638_657)])
def test_it_is_as_large_as_the_original(width: int, channels: int, parameters: int) -> None:
    """CIFAR-10's network and MNIST's, ten levels."""
    leaves = shapes(RefineNet(width, 10), channels)
    assert sum(int(np.prod(shape)) for shape in leaves.values()) == parameters and len(leaves) == 173


def original_name(path: str) -> str:
    """Our leaf → the authors' name of it."""
    rules = (
        (r"^(begin|end)/", r"\1_conv/"),
        (r"^norm/", r"normalizer/"),
        (r"^stage(\d)_(\d)/", r"res\1/\2/"),
        (r"/norm([12])/", r"/normalize\1/"),
        (r"^(res2/0/(conv2|shortcut))/", r"\1/conv/"),
        (r"/adapt(\d)/", r"/adapt_convs/\1/"),
        (r"/out/", r"/output_convs/"),
        (r"/(norm|conv)(\d)_(\d)/", lambda m: f"/{int(m[2]) + 1}_{int(m[3]) + 1}_{m[1]}/"),
        (r"/fuse_norm(\d)/", r"/msf/norms/\1/"),
        (r"/fuse(\d)/", r"/msf/convs/\1/"),
        (r"/pool_norm(\d)/", r"/crp/norms/\1/"),
        (r"/pool(\d)/", r"/crp/convs/\1/"),
        (r"embedding$", "embed/weight"),
        (r"kernel$", "weight"),
    )
    for pattern, name in rules:
        path = re.sub(pattern, name, path)
    return path.replace("/", ".")


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The recipe of the goldens' README."""
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("embed.weight"):
        normal = 0.3 * normal
        normal[:, : 2 * shape[1] // 3] += 1
    elif len(shape) > 1:
        normal /= np.sqrt(np.prod(shape[1:]))
    else:
        normal *= 0.3
    return normal.astype(np.float32)


def test_output_is_the_original_s() -> None:
    with np.load(GOLDEN) as file:
        golden = dict(file)
    theirs = {name: tuple(shape) for name, shape in json.loads(golden["shapes"].tobytes()).items()}
    net, flat = RefineNet(8, 5), {}
    for path in shapes(net, 3):
        leaf = value(original_name(path), theirs.pop(original_name(path)))
        flat[path] = leaf.transpose(2, 3, 1, 0) if leaf.ndim == 4 else leaf
    assert not theirs
    out = jit(net.apply)({"params": unflatten_dict(flat, sep="/")}, golden["z"], golden["t"], jnp.zeros(2))
    assert np.abs(golden["out"]).max() > 3 and np.abs(golden["out"][0] - golden["out"][1]).max() > 3
    np.testing.assert_allclose(out, golden["out"], rtol=1e-4, atol=5e-5)


def draws(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def test_norm_is_the_paper_s() -> None:
    h, gamma, alpha, beta = draws((2, 3, 4, 6), (2, 6), (2, 6), (2, 6))
    h = h * 2 + 3
    expected = np.empty_like(h)
    for b in range(2):
        mu = h[b].reshape(-1, 6).mean(0)
        told = (mu - mu.mean()) / np.sqrt(mu.var(ddof=1) + EPSILON)
        for c in range(6):
            scaled = (h[b, :, :, c] - mu[c]) / np.sqrt(h[b, :, :, c].var() + EPSILON)
            expected[b, :, :, c] = gamma[b, c] * (scaled + alpha[b, c] * told[c]) + beta[b, c]
    np.testing.assert_allclose(instance_norm_plus(h, gamma, alpha, beta), expected, rtol=1e-4, atol=1e-5)


def test_norm_forgets_what_all_channels_share_and_keeps_how_they_differ() -> None:
    """A shift of all channels is lost; one of a channel alone is lost with α = 0, and told with α."""
    h, gamma, alpha, beta, shift = draws((2, 4, 4, 6), (2, 6), (2, 6), (2, 6), (6,))
    norm = partial(instance_norm_plus, gamma=gamma, beta=beta)
    moved = h + shift
    np.testing.assert_allclose(norm(h + 5, alpha=alpha), norm(h, alpha=alpha), atol=2e-5)
    np.testing.assert_allclose(norm(moved, alpha=0 * alpha), norm(h, alpha=0 * alpha), atol=2e-5)
    assert np.abs(norm(moved, alpha=alpha) - norm(h, alpha=alpha)).max() > 0.3
    spread = np.asarray(norm(moved, alpha=alpha)).mean((1, 2))  # γ α μ′ + β
    np.testing.assert_allclose(np.std((spread - beta) / (gamma * alpha), axis=1, ddof=1), 1, rtol=1e-2)


def test_enlarging_keeps_corners_and_lines() -> None:
    ramp = jnp.broadcast_to(jnp.arange(4.0).reshape(1, 4, 1, 1), (1, 4, 3, 2))
    out = enlarged(ramp, (8, 6))
    expected = np.broadcast_to(np.linspace(0, 3, 8).reshape(1, 8, 1, 1), (1, 8, 6, 2))
    np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.slow
def test_every_parameter_of_the_level_that_is_told_is_trained_and_no_other() -> None:
    net = RefineNet(4, 3)
    z, t = jnp.asarray(draws((2, 4, 4, 1))[0]), jnp.array([2.0, 2.0])
    params = jit(net.init)(jax.random.key(0), z, t, t)["params"]
    loss = lambda params: jnp.sum(jnp.square(net.apply({"params": params}, z, t, t) - 1))
    for path, gradient in flatten_dict(jit(jax.grad(loss))(params), sep="/").items():
        if path.endswith("embedding"):
            np.testing.assert_array_equal(gradient[:2], 0)
            gradient = gradient[2]
        assert float(jnp.abs(gradient).max()) > 0, path


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.told": "time"}, "is told the number of its level; set config.method='sde'"),
        ({"schedule.kind": "vp_sde"}, "is told the number of its level"),
        ({"data.shape": (9, 8, 1)}, "cannot be halved"),
        ({"model.prediction": "v"}, "NCSN's network gives a score; set it to 'eps'"),
        ({"model.dropout": 0.1}, "has no labels and no dropout"),
        ({"training.num_timesteps": 0}, "numbers the levels of training"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], sentence: str) -> None:
    config = base()
    config.method, config.schedule.kind = "sde", "ve_sde"
    config.model.update(network="refinenet", told="index", width=8, groups=4)
    config.training.update(num_timesteps=5, weighting="simple")
    check(config)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=sentence):
        check(config)
