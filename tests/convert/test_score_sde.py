"""score_sde's numbers at random parameters (goldens/README.md), its names, its files, and what is none of them."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from flax.traverse_util import flatten_dict, unflatten_dict

from vdm_jax import config as configs
from vdm_jax.convert import formats, score_sde, unet_tables
from vdm_jax.errors import UserError
from vdm_jax.gaussian import networks
from vdm_jax.methods import sde
from vdm_jax.networks import families
from vdm_jax.networks.families import Settings
from vdm_jax.networks.multiscale import UNet

GOLDENS = Path(__file__).parent / "goldens" / "score_sde.npz"
SHAPE = (8, 8, 3)
CASES = {
    "ddpm": ("ddpm", {"width": 64, "multipliers": (1, 2), "attention_at": (8,), "attention_up": "level"}),
    "ddpmpp": ("ddpmpp", {"width": 32, "multipliers": (1, 2, 2), "depth": 2, "attention_at": (4,)}),
    "ncsnpp": ("ncsnpp", {"width": 32, "multipliers": (2, 1, 2), "depth": 1, "attention_at": (4,)}),
    "ncsnpp_vp": (
        "ncsnpp",
        {"width": 32, "multipliers": (1, 2), "depth": 2, "attention_at": (8,)}
        | {"embedding": "ddpm", "scale_by_sigma": False},
    ),
    "ncsnpp_256": (
        "ncsnpp",
        {"width": 32, "multipliers": (1, 2, 2), "depth": 2, "attention_at": (4,)}
        | {"pyramid_in": "skip", "pyramid_out": "skip"},
    ),
}


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS) as file:
        return {k.split("/")[1]: file[k] for k in file if k.startswith(f"{name}/")}


def settings(name: str, **changes: object) -> Settings:
    family, overrides = CASES[name]
    return families.settings(family, **(overrides | changes))


def value(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """The recipe of goldens/README.md."""
    normal = np.random.default_rng(zlib.crc32(path.encode())).standard_normal(shape)
    leaf = path.rsplit("/", 1)[1]
    if path == "GaussianFourierProjection_0/W":
        pass
    elif leaf in ("kernel", "weight", "W"):
        normal /= np.sqrt(np.prod(shape[:-1]))
    else:
        normal = 0.1 * normal + (leaf == "scale")
    return normal.astype(np.float32)


@cache
def flat(name: str) -> dict[str, np.ndarray]:
    """Parameters of the original, which says itself what they are called."""
    shapes = json.loads(golden(name)["shapes"].tobytes())
    return {path: value(path, tuple(shape)) for path, shape in shapes.items()}


def tree(name: str) -> dict:
    return unflatten_dict(flat(name), sep="/")


@cache
def compiled(s: Settings) -> Callable:
    return jax.jit(UNet(s).apply)


def apply(name: str, params: dict, **changes: object) -> np.ndarray:
    g = golden(name)
    return np.asarray(compiled(settings(name, **changes))({"params": params}, g["z"], g["t"], {}))


# what compiles for long and differs from the others in a part or two
LONG = {"ddpm", "ddpmpp", "ncsnpp_vp", "ncsnpp_256"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in CASES])
def test_network_gives_the_output_of_the_original(name: str) -> None:
    out = apply(name, score_sde.from_original(tree(name), settings(name), SHAPE))
    expected = golden(name)["out"]
    assert np.abs(expected).max() > 1 and np.abs(expected[0] - expected[1]).max() > 0.5
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def swap(name: str, a: str, b: str) -> dict:
    """The leaves under a and b, exchanged."""
    other = lambda k: k.replace(a, b) if a in k else k.replace(b, a)
    return unflatten_dict({k: flat(name)[other(k)] for k in flat(name)}, sep="/")


MISTAKES = {
    "two blocks": swap("ncsnpp", "ResnetBlockBigGANpp_5/", "ResnetBlockBigGANpp_6/"),
    "norms of a block": swap("ncsnpp", "ResnetBlockBigGANpp_5/GroupNorm_0", "ResnetBlockBigGANpp_5/GroupNorm_1"),
    "queries and values": swap("ncsnpp", "AttnBlockpp_1/NIN_0", "AttnBlockpp_1/NIN_2"),
    "middle and level": swap("ncsnpp", "AttnBlockpp_0/NIN_3", "AttnBlockpp_2/NIN_3"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_goldens_notice_a_mistake(mistake: str) -> None:
    params = score_sde.from_original(MISTAKES[mistake], settings("ncsnpp"), SHAPE)
    assert np.abs(apply("ncsnpp", params) - golden("ncsnpp")["out"]).max() > 1e-2


@pytest.mark.parametrize("name", CASES)
def test_round_trip_is_bit_exact(name: str) -> None:
    s = settings(name)
    back = flatten_dict(score_sde.to_original(score_sde.from_original(tree(name), s, SHAPE), s, SHAPE), sep="/")
    assert back.keys() == flat(name).keys()
    for path, leaf in flat(name).items():
        assert back[path].tobytes() == leaf.tobytes(), path
        assert (back[path].shape, back[path].dtype) == (leaf.shape, leaf.dtype), path


@pytest.mark.parametrize("name", CASES)
def test_tensors_tell_the_settings(name: str) -> None:
    s = settings(name)
    found = score_sde.describe(flat(name), s.attends(8))
    asked = {"inputs": 3, "attends": s.attends(8)}
    assert found == {field: asked[field] if field in asked else getattr(s, field) for field in found}


def refused(name: str, params: dict, shape: tuple[int, ...] = SHAPE, **changes: object) -> str:
    with pytest.raises(UserError) as error:
        score_sde.from_original(params, settings(name, **changes), shape)
    assert "\n" not in str(error.value)
    return str(error.value)


FIELDS = {
    "model.width: 32 in the weights, 64 in the config": {"width": 64},
    "model.multipliers: (1.0, 2.0, 2.0) in the weights, (1, 2, 4) in the config": {"multipliers": (1, 2, 4)},
    "model.multipliers: (1.0, 2.0, 2.0) in the weights, (1, 2) in the config": {"multipliers": (1, 2)},
    "model.depth: 2 in the weights, 3 in the config": {"depth": 3},
    "model.attention_at: (4,) in the weights, (8,) in the config": {"attention_at": (8,)},
    "model.attention_at: (4,) in the weights, (4, 2) in the config": {"attention_at": (4, 2)},
    "model.attention_at: (4,) in the weights, () in the config": {"attention_at": ()},
    "model.variance: 'beta' or 'posterior' in the weights, 'learned' in the config": {"outputs": 2},
    "model.heads: 1 in the weights, 4 in the config": {"heads": 4},
    "model.groups: 32 in all such weights, 16 in the config": {"groups": 16},
    "model.family: 'none' in the weights, 'residual' in the config": {"pyramid_in": "residual", "fir": True},
    "model.family or model.resample_blocks: 'block' in the weights, 'conv' in the config": {"resample": "conv"},
    "schedule.kind: 'ddpm' in the weights, 'fourier' in the config": {"embedding": "fourier"},
}


@pytest.mark.slow
@pytest.mark.parametrize("sentence", FIELDS)
def test_a_field_that_differs_is_named_and_so_is_the_first_leaf(sentence: str) -> None:
    text = refused("ddpmpp", tree("ddpmpp"), **FIELDS[sentence])
    unseen = sentence.startswith(("model.heads", "model.groups"))  # by the tensors
    assert sentence in text and ("the first leaf that differs: none" in text) == unseen


def test_channels_that_differ_are_named() -> None:
    text = refused("ddpmpp", tree("ddpmpp"), (8, 8, 1))
    assert "data.shape: 3 in the weights, 1 in the config" in text and "Conv_0/kernel" in text


def changed(**changes: object) -> dict:
    """The tree with leaves replaced, or removed where None; '__' stands for '/'."""
    leaves = flat("ddpmpp") | {k.replace("__", "/"): v for k, v in changes.items()}
    return unflatten_dict({k: v for k, v in leaves.items() if v is not None}, sep="/")


WRONG = {
    "missing": (changed(Dense_1__bias=None), "Dense_1/bias of shape (128,) is missing"),
    "missing block": (
        unflatten_dict({k: v for k, v in flat("ddpmpp").items() if "pp_7/" not in k}, sep="/"),
        "ResnetBlockBigGANpp_7/",
    ),
    "extra": (changed(Dense_2__bias=np.zeros(3, np.float32)), "Dense_2/bias of shape (3,) is not expected"),
    "transposed": (changed(Dense_0__kernel=np.zeros((128, 32), np.float32)), "Dense_0/kernel has the shape (128, 32)"),
    "integers": (changed(Dense_0__bias=np.zeros(128, int)), "Dense_0/bias"),
    "no array": (changed(Dense_0__bias="zeros"), "Dense_0/bias"),
    "no first layer": (changed(Conv_0__kernel=None), "Conv_0/kernel"),
    "no numbers": (changed(Conv_0__kernel=np.zeros((3, 3, 3, 0), np.float32)), "Conv_0/kernel"),
    "nothing": ({}, "Conv_0/kernel"),
    "only the first layer": ({"Conv_0": tree("ddpmpp")["Conv_0"]}, "ResnetBlock"),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_first_leaf_that_differs_is_named(what: str) -> None:
    params, name = WRONG[what]
    assert name in refused("ddpmpp", params)


def test_our_parameters_are_checked_as_strictly() -> None:
    s = settings("ddpmpp")
    params = flatten_dict(score_sde.from_original(tree("ddpmpp"), s, SHAPE), sep="/")
    stack = params["up1/rest/res/conv1/kernel"]
    cases = {
        "norm_out/bias": params | {"norm_out/bias": np.zeros(3, np.float32)},
        "up2/attn/q/kernel": params | {"up2/attn/q/kernel": params["mid_attn/q/kernel"]},
        "down1/attn/q/kernel": {k: v for k, v in params.items() if k != "down1/first/attn/q/kernel"},
        "up1/2/res/conv1/kernel": params | {"up1/rest/res/conv1/kernel": np.concatenate([stack, stack])},
    }
    cases["down1/0/attn/q/kernel"] = cases.pop("down1/attn/q/kernel")
    for name, wrong in cases.items():
        with pytest.raises(UserError, match=name):
            score_sde.to_original(unflatten_dict(wrong, sep="/"), s, SHAPE)


def state(step: int, sign: int = 1) -> dict:
    """A train state as the original saves it; its numbers tell which of the weights they are."""
    scaled = lambda factor: unflatten_dict({k: factor * v for k, v in flat("ddpmpp").items()}, sep="/")
    moments = {"grad_ema": scaled(np.float32(0)), "grad_sq_ema": scaled(np.float32(0))}
    return {
        "step": step,
        "optimizer": {"target": scaled(np.float32(1)), "state": {"step": step, "param_states": moments}},
        "lr": 2e-4,
        "model_state": {},
        "ema_rate": 0.9999,
        "params_ema": scaled(np.float32(2)),
        "rng": np.zeros(2, np.uint32),
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The working directory of a run of the original."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for number in (9, 10):
        file = tmp_path / "run" / "checkpoints" / f"checkpoint_{number}"
        file.write_bytes(msgpack_serialize(state(50_000 * number)))
    return tmp_path / "run"


@pytest.mark.parametrize("part", ["", "checkpoints", "checkpoints/checkpoint_10"])
def test_every_way_to_point_at_a_checkpoint(saved: Path, part: str) -> None:
    got = score_sde.read(str(saved / part))
    assert got.keys() == {"params", "ema_params", "step"} and got["step"] == 500_000
    for which, factor in (("params", 1), ("ema_params", 2)):
        for path, leaf in flatten_dict(got[which], sep="/").items():
            np.testing.assert_array_equal(leaf, factor * flat("ddpmpp")[path])


def test_bare_parameters_and_norms_of_old_flax(tmp_path: Path) -> None:
    old = {k: v.reshape(1, 1, 1, -1) if "GroupNorm" in k else v for k, v in flat("ddpmpp").items()}
    (tmp_path / "weights").write_bytes(msgpack_serialize(unflatten_dict(old, sep="/")))
    got = score_sde.read(str(tmp_path / "weights"))
    assert got.keys() == {"params"}
    for path, leaf in flatten_dict(got["params"], sep="/").items():
        np.testing.assert_array_equal(leaf, flat("ddpmpp")[path], strict=True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        msgpack_serialize(state(1))[:50_000],
        msgpack_serialize({"params": {"score_model": {"a": np.zeros(3)}}}),
        msgpack_serialize({"optimizer": {"target": 3}, "params_ema": {"CondRefineBlock_0": {}}}),
        msgpack_serialize({"optimizer": 3}),
    ],
)
def test_files_of_something_else(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "checkpoint_1"
    file.write_bytes(content)
    for place in (file, tmp_path):
        with pytest.raises(UserError, match="checkpoint_1"):
            score_sde.read(str(place))


def test_places_without_a_checkpoint(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=str(place)):
            score_sde.read(str(place))


def sde_config() -> configs.ConfigDict:
    parts = {"method": "sde", "model.network": "multiscale", "model.family": "ddpmpp", "schedule.kind": "vp_sde"}
    config = configs.choose(configs.base(), parts)
    config.data.shape, config.data.vocabulary = SHAPE, 256
    config.model.width, config.model.multipliers, config.model.depth = 32, (1.0, 2.0, 2.0), 2
    config.model.attention_at = (4,)
    return config


@pytest.mark.slow
def test_loaded_weights_fit_the_method_of_the_config(saved: Path) -> None:
    config = sde_config()
    init = partial(networks.init, networks.build(config), shape=SHAPE)
    like = {"network": jax.eval_shape(init, jax.random.key(0))}
    for which, factor in (("ema", 2), ("raw", 1)):
        config.evaluation.weights = which
        params, step = score_sde.load(str(saved), config, like)
        assert step == 500_000 and jax.tree.map(np.shape, params) == jax.tree.map(np.shape, like)
        np.testing.assert_array_equal(params["network"]["conv_in"]["kernel"], factor * flat("ddpmpp")["Conv_0/kernel"])
    configs.choose(config, {"model.network": "unet"})
    with pytest.raises(UserError, match="'multiscale'"):
        score_sde.load(str(saved), config, like)


def test_the_method_turns_the_original_s_score_into_our_eps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its VE networks give the score of x ∈ [0, 1] plus σ noise: ε̂ = −σ score, at z = 2x − 1 and twice the σ."""
    config, g = sde_config(), golden("ncsnpp")
    configs.choose(config, {"model.family": "ncsnpp", "schedule.kind": "ve_sde"})
    config.model.multipliers, config.model.depth = (2.0, 1.0, 2.0), 1
    model = sde.model(config)
    params = {"network": score_sde.from_original(tree("ncsnpp"), unet_tables.settings_of(config), SHAPE)}
    apply = lambda net, params, keys, z, level, cond: compiled(settings("ncsnpp"))({"params": params}, z, level.t, cond)
    monkeypatch.setattr(networks, "apply", apply)  # the network that other tests have compiled
    level = model.level_of(2 * (jnp.asarray(g["t"]) + math.log(2)))
    eps = model.denoise(params)(g["z"], level, {})
    expected = -np.exp(g["t"])[:, None, None, None] * g["out"]
    np.testing.assert_allclose(eps, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_discrete_checkpoints_want_a_network_that_is_told_numbers() -> None:
    """NCSN++ of the discrete VE config has the leaves of the one under VP: no frequencies."""
    config = sde_config()
    configs.choose(config, {"model.family": "ncsnpp", "schedule.kind": "ve_sde", "model.multipliers": (1.0, 2.0)})
    config.model.attention_at, config.training.weighting, config.training.num_timesteps = (8,), "simple", 1000
    with pytest.raises(
        UserError, match=r"model\.time_input and schedule\.kind: 'ddpm' in the weights, 'fourier' in the config"
    ):
        score_sde.from_original(tree("ncsnpp_vp"), unet_tables.settings_of(config), SHAPE)
    config.model.time_input = "index"
    score_sde.from_original(tree("ncsnpp_vp"), unet_tables.settings_of(config), SHAPE)


@pytest.mark.slow
def test_discrete_vp_checkpoints_are_a_ddpm_s_too(saved: Path) -> None:
    """DDPM++ trained on DDPM's levels is told 0 … 999 by method 'ddpm'."""
    config = sde_config()
    configs.choose(config, {"method": "ddpm", "schedule.kind": "ddpm_linear", "training.weighting": "simple"})
    init = partial(networks.init, networks.build(config), shape=SHAPE)
    formats.load(str(saved), config, {"network": jax.eval_shape(init, jax.random.key(0))})
    np.testing.assert_array_equal(networks.time_input(config, 1000), np.arange(1000))


def test_weights_that_a_file_lacks(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(msgpack_serialize(tree("ddpmpp")))
    with pytest.raises(UserError, match=r"evaluation\.weights='raw'"):
        score_sde.load(str(tmp_path / "weights"), sde_config(), None)
