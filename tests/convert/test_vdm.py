"""The original's numbers at random parameters (tests/goldens/README.md), and what is no checkpoint of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from vdm_jax import config as configs
from vdm_jax.convert import vdm
from vdm_jax.convert.vdm_layout import Layout, leaves, schedule_shapes
from vdm_jax.diffusion import decoders, prediction, process, samplers
from vdm_jax.gaussian import continuous, networks
from vdm_jax.gaussian import data as gaussian_data
from vdm_jax.methods import vdm as method
from vdm_jax.networks.encoders import Feature
from vdm_jax.networks.vdm_unet import VDMUNet

GOLDENS = Path(__file__).parents[1] / "goldens" / "vdm"
KINDS = {
    "fixed": "linear",
    "learnable_scalar": "learned_scalar",
    "learnable_nnet": "learned_monotone",
}
GAMMA = {  # center and spread of the leaves of the original's schedules
    "gamma/w": (17.0, 0.5),
    "gamma/b": (-11.5, 0.5),
    "gamma/l1/kernel": (9.0, 0.5),
    "gamma/l1/bias": (-7.5, 0.5),
    "gamma/l2/kernel": (0.0, 3.0),
    "gamma/l2/bias": (0.0, 2.0),
    "gamma/l3/kernel": (0.0, 8.0),
}


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / f"{name}.npz") as file:
        return dict(file)


def layout(
    width: int = 64,
    depth: int = 2,
    attention: bool = False,
    fourier: bool = True,
    kind: str = "learned_scalar",
) -> Layout:
    features = 1024 if kind == "learned_monotone" else 0
    return Layout(3, width, depth, attention, fourier, kind, features)


def value(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """The recipe of tests/goldens/README.md."""
    normal = np.random.default_rng(zlib.crc32(path.encode())).standard_normal(shape)
    if path in GAMMA:
        center, spread = GAMMA[path]
    elif path.endswith("/kernel"):
        center, spread = 0.0, 1 / np.sqrt(np.prod(shape[:-1]))
    else:
        center, spread = float(path.endswith("/scale")), 0.1
    return (center + spread * normal).astype(np.float32)


def original(dtype: type = np.float32, **kwargs: object) -> dict:
    """Parameters of the original at random values."""
    model = layout(**kwargs)
    shapes = {k: leaf.shape for k, leaf in leaves(model).items()} | schedule_shapes(model)
    return unflatten_dict({k: value(k, s).astype(dtype) for k, s in shapes.items()}, sep="/")


@cache
def compiled(width: int, depth: int, fourier: bool, attention: bool, dtype: type) -> Callable:
    """Our network, compiled once for all tests."""
    exponents = (7, 8) if fourier else ()
    return jax.jit(VDMUNet(width, depth, exponents, attention, dtype=dtype, encoders=(Feature("augmented"),)).apply)


def apply(model: dict, params: dict, case: dict, dtype: type = np.float32, t: np.ndarray | None = None) -> np.ndarray:
    """Our network on the inputs of a golden; t: in place of the normalized γ."""
    names = ("width", "layers", "fourier", "attention")
    net = compiled(*(model[name].item() for name in names), dtype)
    t = (case["gamma"].astype(dtype) + 13.3) / 18.3 if t is None else t
    z, t, bit = (jnp.asarray(a, dtype) for a in (case["z"], t, case["conditioning"]))
    return np.asarray(net({"params": params["network"]}, z, t, {"augmented": bit}))


def network_case(i: int) -> tuple[dict, dict]:
    case = {k.split("/")[1]: v for k, v in golden("network").items() if k.startswith(f"network_{i}/")}
    return {k: case.pop(k) for k in ("width", "layers", "attention", "fourier")}, case


def tree_of(model: dict, dtype: type = np.float32) -> dict:
    width, depth, attention, fourier = (model[name].item() for name in ("width", "layers", "attention", "fourier"))
    return original(dtype, width=width, depth=depth, attention=attention, fourier=fourier)


@pytest.mark.parametrize("i", range(5))
def test_network_gives_the_output_of_the_original(i: int) -> None:
    model, case = network_case(i)
    out = apply(model, vdm.from_original(tree_of(model)), case)
    np.testing.assert_allclose(out, case["float32"], rtol=0, atol=1e-5)


def test_network_gives_the_output_of_the_original_in_float64() -> None:
    model, case = network_case(3)
    with jax.enable_x64(True):
        out = apply(model, vdm.from_original(tree_of(model, np.float64)), case, np.float64)
    np.testing.assert_allclose(out, case["float64"], rtol=0, atol=1e-12)


def swap(tree: dict, a: str, b: str) -> dict:
    """The leaves under a and b, exchanged."""
    flat = flatten_dict(tree, sep="/")
    other = lambda k: k.replace(a, b) if a in k else k.replace(b, a)
    return unflatten_dict({k: flat[other(k)] for k in flat}, sep="/")


def permute_inputs(tree: dict, order: list[int]) -> dict:
    flat = flatten_dict(tree, sep="/")
    name = "score_model/conv_in/kernel"
    return unflatten_dict(flat | {name: flat[name][:, :, order]}, sep="/")


SINES, COSINES = [3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14]
BROKEN = {
    "two blocks swapped": lambda t: swap(t, "down.block_0", "down.block_1"),
    "the way up reversed": lambda t: swap(t, "up.block_0", "up.block_3"),
    "two attentions swapped": lambda t: swap(t, "up.attn_1", "up.attn_2"),
    "queries for keys": lambda t: swap(t, "/q/", "/k/"),
    "norms of a block swapped": lambda t: swap(t, "mid.block_1/GroupNorm_0", "mid.block_1/GroupNorm_1"),
    "cosines before sines": lambda t: permute_inputs(t, [0, 1, 2, *COSINES, *SINES]),
    "channels inside exponents": lambda t: permute_inputs(t, [0, 1, 2, 3, 6, 4, 7, 5, 8, 9, 12, 10, 13, 11, 14]),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_goldens_notice_a_mistake_in_the_names(mistake: str) -> None:
    model, case = network_case(3)  # three layers, attention, Fourier features
    out = apply(model, vdm.from_original(BROKEN[mistake](tree_of(model))), case)
    assert np.abs(out - case["float32"]).max() > 1e-2


@pytest.mark.parametrize("mistake", ["gamma itself", "learned endpoints", "augmentation bit"])
def test_goldens_notice_another_conditioning(mistake: str) -> None:
    model, case = network_case(3)
    params = vdm.from_original(tree_of(model))
    gamma_0, span = (float(params["schedule"][k]) for k in ("gamma_0", "span"))
    gamma = case["gamma"]
    t = {"gamma itself": gamma, "learned endpoints": (gamma - gamma_0) / span}.get(mistake)
    if mistake == "augmentation bit":
        case = case | {"conditioning": 1 - case["conditioning"]}
    assert np.abs(apply(model, params, case, t=t) - case["float32"]).max() > 1e-2


def bound(
    kind: str, attention: bool, num_timesteps: int, patch: pytest.MonkeyPatch, dtype: type
) -> dict[str, np.ndarray]:
    """Our method's three terms, nats per example, with the noise of the golden in place of its own."""
    g = golden("losses")
    config = configs.base()
    config.data.shape, config.data.vocabulary = (8, 8, 3), 256
    config.model.width, config.model.depth, config.model.attention = 64, 2, attention
    configs.choose(config, {"schedule.kind": KINDS[kind], "evaluation.num_timesteps": num_timesteps})
    configs.check(config)

    noise = {method.RECONSTRUCTION: g["eps_0"], method.DIFFUSION: g["eps"]}
    t = (g["t0"].astype(dtype) + np.arange(4) / 4) % 1
    net = compiled(64, 2, True, attention, dtype)
    # dropout is off, so its keys, the last argument, are None
    patch.setattr(networks, "build", lambda c: SimpleNamespace(apply=lambda *args: net(*args[:-1])))
    for module in (continuous, gaussian_data):
        patch.setattr(module, "normal_like", lambda keys, shape, use: jnp.asarray(noise[use], dtype))
    patch.setattr(method.times, "independent", lambda keys: jnp.asarray(t, dtype))

    tree = original(dtype, attention=attention, kind=KINDS[kind])
    params = vdm.from_original(tree, dict(configs.flatten(config)))
    batch = {"x": jnp.asarray(g["images"]), "cond": {"augmented": jnp.asarray(g["conditioning"], dtype)}}
    keys = jax.random.split(jax.random.key(0), 4)
    terms = method.build(config).bits_per_dim(params, batch, keys)
    return {k: np.asarray(v) * 192 * np.log(2) for k, v in terms.items()}


@pytest.mark.parametrize("num_timesteps", [0, 10])
@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_three_terms_are_those_of_the_original(
    kind: str, attention: bool, num_timesteps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with jax.enable_x64(True):
        terms = bound(kind, attention, num_timesteps, monkeypatch, np.float64)
    names = {"reconstruction": "recon", "prior": "klz", "diffusion": "diff"}
    for ours, theirs in names.items():
        expected = golden("losses")[f"{kind}/attention={attention}/T={num_timesteps}/{theirs}"]
        np.testing.assert_allclose(terms[ours], expected, rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("kind", ["learnable_scalar", "learnable_nnet"])
def test_schedule_is_the_same_function(kind: str) -> None:
    g = golden("schedules")
    tree = original(kind=KINDS[kind])
    config = configs.base()
    config.schedule.kind = KINDS[kind]
    there_and_back = vdm.from_original(vdm.to_original(vdm.from_original(tree)))
    for params in (vdm.from_original(tree), there_and_back):
        schedule = method.schedule_from(config, params["schedule"])
        t = jnp.asarray(g["t"], jnp.float32)
        np.testing.assert_allclose(schedule.gamma(t), g[f"{kind}/gamma_float64"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(schedule.dgamma(t), g[f"{kind}/slope_float64"], rtol=1e-5)


def test_negative_weights_of_the_schedule_act_by_their_size() -> None:
    tree = original(kind="learned_scalar")
    tree["gamma"]["w"] = -tree["gamma"]["w"]
    config = configs.base()
    schedule = method.schedule_from(config, vdm.from_original(tree)["schedule"])
    gamma = schedule.gamma(jnp.asarray(golden("schedules")["t"], jnp.float32))
    np.testing.assert_allclose(gamma, golden("schedules")["learnable_scalar/gamma_float64"], rtol=0, atol=1e-5)


def test_learned_endpoints_may_move_away_from_the_weights_they_came_with() -> None:
    params = vdm.from_original(original(kind="learned_monotone"))
    params["schedule"]["span"] = np.float32(15.0).reshape(())
    gamma = vdm.to_original(params)["gamma"]
    # the original's formula, at t = 0 and 1
    l1, l2, l3 = gamma["l1"], gamma["l2"], gamma["l3"]
    t = np.array([[0.0], [1.0]])
    hidden = 2 / (1 + np.exp(-((2 * t - 1) @ np.abs(l2["kernel"]) + l2["bias"]))) - 1
    ends = (t * np.abs(l1["kernel"]) + l1["bias"])[:, 0] + (hidden @ np.abs(l3["kernel"]))[:, 0] / 1024
    gamma_0 = params["schedule"]["gamma_0"]
    np.testing.assert_allclose(ends, [gamma_0, gamma_0 + 15], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["fixed", "learnable_scalar", "learnable_nnet"])
def test_sampling_step_and_decoder_are_those_of_the_original(kind: str) -> None:
    g = golden("sampling")
    config = configs.base()
    config.schedule.kind = KINDS[kind]
    with jax.enable_x64(True):
        params = vdm.from_original(original(np.float64, attention=True, kind=KINDS[kind]))
        schedule = method.schedule_from(config, params["schedule"])
        level_of = lambda gamma: process.noise(gamma, (gamma + 13.3) / 18.3)
        net = compiled(64, 2, True, True, np.float64)
        cond = {"augmented": jnp.asarray(g["conditioning"], np.float64)}
        denoise = lambda z, level, cond: net({"params": params["network"]}, z, level.t, cond)
        steps = samplers.transitions(schedule, samplers.uniform_grid(int(g["T"])), level_of)
        predict = samplers.predictor(denoise, prediction.split, cond)
        eps, z = (jnp.asarray(g[name], np.float64) for name in ("eps", "z"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax.random, "normal", lambda key, shape, dtype: key)  # the noise is the key
            step = samplers.ancestral(predict)
            for i in g["i"]:
                z_s = step(eps, z, jax.tree.map(lambda a, i=i: a[i], steps))
                np.testing.assert_allclose(z_s, g[f"{kind}/z_s/{i}"], rtol=1e-10, atol=1e-10)
        z_0 = jnp.asarray(g[f"{kind}/z_0"], np.float64)
        x = decoders.decode(z_0, level_of(schedule.gamma(jnp.zeros(()))), 256)
    np.testing.assert_array_equal(x, g[f"{kind}/x"])


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("kind", ["linear", "learned_scalar"])
def test_round_trip_is_bit_exact(kind: str, attention: bool) -> None:
    tree = original(kind=kind, attention=attention)
    if kind == "learned_scalar":
        tree["gamma"]["w"] = -tree["gamma"]["w"]  # its sign has no effect and is kept
    back = flatten_dict(vdm.to_original(vdm.from_original(tree)), sep="/")
    assert back.keys() == flatten_dict(tree, sep="/").keys()
    for name, leaf in flatten_dict(tree, sep="/").items():
        assert back[name].tobytes() == leaf.tobytes(), name
        assert (back[name].shape, back[name].dtype) == (leaf.shape, leaf.dtype), name


@pytest.mark.parametrize(
    ("width", "depth", "attention", "features", "count"),
    [
        (128, 32, False, 0, 30_578_181),  # CIFAR-10
        (256, 32, False, 0, 122_137_605),  # ImageNet 32
        (256, 64, False, 0, 237_603_845),  # ImageNet 64
        (256, 32, False, 1024, 122_140_677),  # CIFAR-10 with augmentation, as released
        (256, 32, True, 1024, 139_279_877),  # and as in the paper
    ],
)
def test_numbers_of_parameters(width: int, depth: int, attention: bool, features: int, count: int) -> None:
    config = configs.base()
    config.data.shape, config.data.vocabulary = (32, 32, 3), 256
    config.model.width, config.model.depth, config.model.attention = width, depth, attention
    configs.choose(config, {"schedule.kind": "learned_monotone" if features else "learned_scalar"})
    ours = jax.eval_shape(method.build(config).init, jax.random.key(0))
    # gamma_0 and span stand for the original's b and w; with a network they and its normalized
    # slope hold one number more than l1's two
    assert sum(leaf.size for leaf in jax.tree.leaves(ours)) == count + bool(features)
    model = layout(width, depth, attention, kind=config.schedule.kind)
    shapes = [leaf.shape for leaf in leaves(model).values()] + list(schedule_shapes(model).values())
    assert sum(int(np.prod(shape)) for shape in shapes) == count
