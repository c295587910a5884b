"""denoising-diffusion-gan's numbers at random parameters (goldens/README.md), its names, its files, and others."""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.convert.torch_files import archive, program, storage, tensor
from vdm_jax import config as configs
from vdm_jax import methods, weights
from vdm_jax.convert import ddgan, formats
from vdm_jax.diffusion import adversarial
from vdm_jax.errors import UserError
from vdm_jax.networks import families
from vdm_jax.networks.discriminator import Discriminator
from vdm_jax.networks.families import Settings
from vdm_jax.networks.multiscale import UNet

GOLDENS = Path(__file__).parent / "goldens" / "ddgan.npz"
SHAPES = {"generator": (8, 8, 3), "generator_open": (16, 16, 3), "small": (16, 16, 3), "large": (64, 64, 3)}
GENERATORS = {
    "generator": {"width": 32, "multipliers": (1, 2), "attention_at": (4,), "latent": 10}
    | {"latent_width": 24, "mapping_depth": 2},
    "generator_open": {"width": 32, "multipliers": (1, 1, 2), "depth": 1, "attention_at": (8,), "latent": 6}
    | {"latent_width": 16, "mapping_depth": 0, "bounded": False},
}
JUDGES = {"small": Discriminator("small", 4, 12), "large": Discriminator("large", 3, 8)}
BATCH = {"generator": 2, "generator_open": 2, "small": 8, "large": 4}


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS) as file:
        return {k.split("/")[1]: file[k] for k in file if k.startswith(f"{name}/")}


def settings(name: str, **changes: Any) -> Settings:
    return families.settings("ddgan", **(GENERATORS[name] | changes))


def value(path: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    """The recipe of goldens/README.md."""
    normal = np.random.default_rng(zlib.crc32(path.encode())).standard_normal(shape)
    if len(shape) > 1:
        normal *= gain / np.sqrt(shape[0] if path.endswith(".W") else np.prod(shape[1:]))
    else:
        normal = 0.3 * normal + path.endswith(("style.bias", "weight"))
    return normal.astype(np.float32)


@cache
def flat(name: str) -> dict[str, np.ndarray]:
    """Parameters of the original, which says itself what they are called."""
    shapes = json.loads(golden(name)["shapes"].tobytes())
    return {path: value(path, tuple(shape), 2.0 if name in JUDGES else 1.0) for path, shape in shapes.items()}


def normal(name: str, what: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(f"{name}/{what}".encode())).standard_normal(shape).astype(np.float32)


def images(name: str, what: str) -> np.ndarray:
    return normal(name, what, (BATCH[name], *SHAPES[name]))


def like(name: str) -> Any:
    z = jnp.zeros((1, *SHAPES[name]))
    return jax.eval_shape(JUDGES[name].init, jax.random.key(0), z, z, jnp.zeros(1))["params"]


@pytest.mark.parametrize("name", [pytest.param("generator", marks=pytest.mark.slow), "generator_open"])
def test_generator_gives_the_output_of_the_original(name: str) -> None:
    params = ddgan.generator_from_original(flat(name), settings(name), SHAPES[name])
    w = normal(name, "w", (2, GENERATORS[name]["latent"]))
    run = jax.jit(lambda *inputs, w: UNet(settings(name)).apply(*inputs, {"latent": w}))
    out = run({"params": params}, images(name, "z"), jnp.asarray([0.0, 3.0]), w=w)
    expected = golden(name)["out"]
    assert np.abs(expected[0] - expected[1]).max() > 0.5
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    swapped = run({"params": params}, images(name, "z"), jnp.asarray([0.0, 3.0]), w=w[::-1])
    assert np.abs(swapped - expected).max() > 1e-2  # the latent matters


@pytest.mark.parametrize("name", ["small", pytest.param("large", marks=pytest.mark.slow)])
def test_discriminator_gives_the_logits_of_the_original(name: str) -> None:
    params = ddgan.discriminator_from_original(flat(name), like(name))
    t = (jnp.arange(BATCH[name]) % 4).astype(jnp.float32)
    out = jax.jit(JUDGES[name].apply)({"params": params}, images(name, "z_s"), images(name, "z_t"), t)
    expected = golden(name)["out"]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", JUDGES)
def test_penalty_and_gradients_are_those_of_the_original(name: str) -> None:
    """½ ‖∇D‖², and the norm of every leaf's gradient of softplus(−D) + .05 times that, meaned."""
    params = ddgan.discriminator_from_original(flat(name), like(name))
    z_s, z_t = images(name, "z_s"), images(name, "z_t")
    t = (jnp.arange(BATCH[name]) % 4).astype(jnp.float32)

    def loss(params: Any) -> Any:
        judge = lambda z: JUDGES[name].apply({"params": params}, z, z_t, t)
        logits, penalty = adversarial.with_penalty(judge, z_s)
        return jnp.mean(jax.nn.softplus(-logits) + 0.05 * penalty), penalty

    (_, penalty), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    g = golden(name)
    np.testing.assert_allclose(penalty, g["penalty"], rtol=1e-4)
    norms = [np.linalg.norm(leaf) for leaf in ddgan.discriminator_to_original(grads).values()]
    theirs = dict(zip(flat(name), g["gradients"], strict=True))
    names = list(ddgan.discriminator_to_original(grads))
    np.testing.assert_allclose(norms, [theirs[k] for k in names], rtol=1e-3, atol=1e-5 * g["gradients"].max())


@pytest.mark.parametrize("name", SHAPES)
def test_round_trip_is_bit_exact(name: str) -> None:
    if name in JUDGES:
        back = ddgan.discriminator_to_original(ddgan.discriminator_from_original(flat(name), like(name)))
    else:
        s, shape = settings(name), SHAPES[name]
        back = ddgan.generator_to_original(ddgan.generator_from_original(flat(name), s, shape), s, shape)
    assert back.keys() == flat(name).keys()
    for path, leaf in flat(name).items():
        assert (back[path].shape, back[path].tobytes()) == (leaf.shape, leaf.tobytes()), path


def size_of(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


COUNTS = {  # of the original's modules at its published settings
    32: ({"mapping_depth": 4}, "small", 48_432_515, 12_741_633),
    256: ({"width": 64, "multipliers": (1, 1, 2, 2, 4, 4)}, "large", 39_726_979, 27_737_217),
}


@pytest.mark.parametrize("size", [32, pytest.param(256, marks=pytest.mark.slow)])
def test_networks_have_the_paper_s_number_of_parameters(size: int) -> None:
    options, name, generator, discriminator = COUNTS[size]
    key, z, t = jax.random.key(0), jnp.zeros((1, size, size, 3)), jnp.zeros(1)
    net = UNet(families.settings("ddgan", **options))
    assert size_of(jax.eval_shape(net.init, key, z, t, {"latent": jnp.zeros((1, 100))})) == generator
    assert size_of(jax.eval_shape(Discriminator(name).init, key, z, z, t)) == discriminator


FIELDS = {
    "model.width: 32 in the weights, 64 in the config": {"width": 64},
    "model.multipliers: (1.0, 2.0) in the weights, (1, 1) in the config": {"multipliers": (1, 1)},
    "model.depth: 2 in the weights, 3 in the config": {"depth": 3},
    "model.attention_at: (4,) in the weights, (8,) in the config": {"attention_at": (8,)},
    "model.latent: 10 in the weights, 100 in the config": {"latent": 100},
    "model.latent_width: 24 in the weights, 256 in the config": {"latent_width": 256},
    "model.mapping_depth: 2 in the weights, 4 in the config": {"mapping_depth": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize("sentence", FIELDS)
def test_a_field_that_differs_is_named(sentence: str) -> None:
    with pytest.raises(UserError) as error:
        ddgan.generator_from_original(flat("generator"), settings("generator", **FIELDS[sentence]), (8, 8, 3))
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_the_first_key_that_differs_is_named() -> None:
    whole = flat("generator")
    key = "all_modules.4.Conv_1.weight"
    cases = {
        f"{key} of shape (32, 32, 3, 3) is missing": {k: v for k, v in whole.items() if k != key},
        f"{key} has the shape (32, 32, 3), not": whole | {key: whole[key][..., 0]},
        "all_modules.99.bias of shape (2,) is not expected": whole | {"all_modules.99.bias": np.zeros(2, np.float32)},
    }
    for sentence, tensors in cases.items():
        with pytest.raises(UserError) as error:
            ddgan.generator_from_original(tensors, settings("generator"), (8, 8, 3))
        assert sentence in str(error.value)


def config_of() -> configs.ConfigDict:
    parts = {"method": "ddgan", "model.network": "multiscale", "schedule.kind": "ddgan_vp", "model.prediction": "x"}
    config = configs.choose(configs.base(), parts)
    config.data.shape, config.data.vocabulary = (8, 8, 3), 256
    config.schedule.num_timesteps = config.sampling.num_steps = 4
    config.model.width, config.model.multipliers, config.model.depth = 32, (1.0, 2.0), 2
    config.model.attention_at, config.model.latent, config.model.latent_width = (4,), 10, 24
    config.model.mapping_depth, config.model.discriminator_width, config.model.discriminator_time = 2, 4, 12
    return config


def save(file: Path, tensors: dict[str, np.ndarray]) -> None:
    """As torch.save writes a state_dict."""
    values, storages = {}, {}
    for number, (name, a) in enumerate(tensors.items()):
        strides = tuple(n // 4 for n in np.zeros(a.shape, np.float32).strides)
        values[name] = tensor(shape=a.shape, strides=strides, of=storage(key=str(number), size=a.size))
        storages[str(number)] = a.tobytes()
    file.write_bytes(archive(program(values), storages))


@pytest.mark.slow
def test_released_files_load_and_others_are_one_sentence(tmp_path: Path) -> None:
    config, z = config_of(), jnp.zeros((1, 16, 16, 3))
    judge = jax.eval_shape(JUDGES["small"].init, jax.random.key(0), z, z, jnp.zeros(1))["params"]
    shapes = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.float32), tree)
    params = ddgan.generator_from_original(flat("generator"), settings("generator"), (8, 8, 3))
    both = {"generator": shapes(params), "discriminator": shapes(judge)}
    generator = {f"module.{k}": v for k, v in flat("generator").items()}
    discriminator = {f"module.{k}": v for k, v in flat("small").items()}

    save(tmp_path / "netG_1200.pth", generator)
    loaded, step = formats.load(str(tmp_path / "netG_1200.pth"), config, both)
    assert loaded.keys() == {"generator"} and step == 0
    for path, leaf in flatten_dict(loaded["generator"]).items():
        np.testing.assert_array_equal(leaf, flatten_dict(params)[path])

    _, note = weights.to_start_from(str(tmp_path / "netG_1200.pth"), config, methods.build(config))
    assert note == f"{tmp_path / 'netG_1200.pth'} has no discriminator; it is initialized from scratch"

    state = {f"netG_dict.{k}": v for k, v in generator.items()} | {
        f"netD_dict.{k}": v for k, v in discriminator.items()
    }
    others = {"epoch": np.float32([7]), "optimizerG.state.0.exp_avg": np.ones(3, np.float32)}
    for beside in ({}, others):  # its training state has options, counts and optimizers too
        save(tmp_path / "content.pth", state | beside)
        loaded, _ = formats.load(str(tmp_path / "content.pth"), config, both)
        np.testing.assert_array_equal(loaded["discriminator"]["conv_in"]["bias"], flat("small")["start_conv.bias"])
        for path, leaf in flatten_dict(loaded["generator"]).items():
            np.testing.assert_array_equal(leaf, flatten_dict(params)[path])

    save(tmp_path / "netD.pth", discriminator)
    with pytest.raises(UserError) as error:
        formats.load(str(tmp_path / "netD.pth"), config, both)
    assert "holds a discriminator" in str(error.value) and "\n" not in str(error.value)
    config.model.latent = 0
    with pytest.raises(UserError, match=r"config\.model\.latent"):
        formats.load(str(tmp_path / "netG_1200.pth"), config, both)
