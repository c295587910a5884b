"""NCSN's network: the authors' numbers at random parameters (convert/goldens/README.md), its norms, its size."""

from __future__ import annotations

import json
import zlib
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from tests.convert.torch_files import pt
from vdm_jax.config import base, check, choose
from vdm_jax.convert import formats, ncsn
from vdm_jax.errors import UserError
from vdm_jax.networks.refinenet import EPSILON, RefineNet, enlarged, instance_norm_plus

GOLDEN = Path(__file__).parent.parent / "convert" / "goldens" / "ncsn.npz"
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def made() -> ConfigDict:
    parts = {"method": "sde", "schedule.kind": "ve_sde", "model.network": "refinenet", "model.time_input": "index"}
    config = choose(base(), parts)
    config.model.width = 8
    config.training.update(num_timesteps=5, weighting="simple")
    return config


@pytest.mark.parametrize(
    ("width", "channels", "parameters"), [(128, 3, 30_117_635), pytest.param(64, 1, 7_638_657, marks=pytest.mark.slow)]
)
def test_it_is_as_large_as_the_original(width: int, channels: int, parameters: int) -> None:
    """CIFAR-10's network and MNIST's, ten levels."""
    leaves = ncsn.shapes(width, 10, channels)
    assert sum(int(np.prod(shape)) for shape in leaves.values()) == parameters and len(leaves) == 173


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


@cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@cache
def theirs() -> dict[str, np.ndarray]:
    """Parameters of the original, which says itself what they are called."""
    shapes = json.loads(golden()["shapes"].tobytes())
    return {name: value(name, tuple(shape)) for name, shape in shapes.items()}


convert = partial(ncsn.from_original, width=8, levels=5, channels=3)


@pytest.mark.slow
def test_output_is_the_original_s() -> None:
    g = golden()
    out = jit(RefineNet(8, 5).apply)({"params": convert(theirs())}, g["z"], g["t"], {})
    assert np.abs(g["out"]).max() > 3 and np.abs(g["out"][0] - g["out"][1]).max() > 3
    np.testing.assert_allclose(out, g["out"], rtol=1e-4, atol=5e-5)


def refused(flat: dict[str, np.ndarray], **changes: int) -> str:
    with pytest.raises(UserError) as error:
        convert(flat, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.slow
def test_what_is_not_the_network_s_is_named() -> None:
    missing = {k: v for k, v in theirs().items() if k != "refine3.crp.convs.1.weight"}
    one = np.zeros(1, np.float32)
    assert "refine3.crp.convs.1.weight of shape (8, 8, 3, 3) is missing" in refused(missing)
    assert "more of shape (1,) is not expected" in refused({**theirs(), "more": one})
    assert "no begin_conv and normalizer" in refused({"x": one})
    text = refused(theirs(), width=16, levels=10, channels=1)
    assert "model.width: 8 in the weights, 16 in the config" in text
    assert "data.shape: 3 in the weights, 1 in the config" in text
    assert "training.num_timesteps: 5 in the weights, 10 in the config" in text


def test_a_file_is_loaded(tmp_path: Path) -> None:
    """Of a network under DataParallel, whose names begin with 'module.'; another network is told which it should be."""
    path = str(tmp_path / "ncsn.pt")
    Path(path).write_bytes(pt({f"module.{name}": leaf for name, leaf in theirs().items()}))
    config = made()
    config.data.shape = (8, 8, 3)
    params, step = formats.load(path, config, {"network": convert(theirs())})
    assert step == 0
    jax.tree.map(np.testing.assert_array_equal, params["network"], convert(theirs()))
    choose(config, {"model.network": "multiscale"})
    with pytest.raises(UserError, match=r"reads only PyTorch files of NCSN; set config\.model\.network='refinenet'"):
        formats.load(path, config, None)


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
    params = jit(net.init)(jax.random.key(0), z, t, {})["params"]
    loss = lambda params: jnp.sum(jnp.square(net.apply({"params": params}, z, t, {}) - 1))
    for path, gradient in flatten_dict(jit(jax.grad(loss))(params), sep="/").items():
        if path.endswith("embedding"):
            np.testing.assert_array_equal(gradient[:2], 0)
            gradient = gradient[2]
        assert float(jnp.abs(gradient).max()) > 0, path


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.time_input": "time"}, "whose time input is the index of a level; set config.method='sde'"),
        ({"schedule.kind": "vp_sde"}, "whose time input is the index of a level"),
        ({"data.shape": (9, 8, 1)}, "cannot be halved"),
        ({"model.prediction": "v"}, "NCSN's network predicts a score; set it to 'eps'"),
        ({"model.dropout": 0.1}, r"model\.dropout: config\.model\.network='refinenet' has no such field"),
        ({"model.num_classes": 3}, r"model\.num_classes: config\.model\.network='refinenet' has no such field"),
        ({"training.num_timesteps": 0}, "needs the noise levels of training"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], sentence: str) -> None:
    config = made()
    check(config)
    with pytest.raises(UserError, match=sentence):
        check(choose(config, changes))
