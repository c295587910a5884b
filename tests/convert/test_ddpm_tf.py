"""DDPM's numbers at random parameters (goldens/README.md), its names, its files, and what is none of them."""

from __future__ import annotations

import io
import json
import random
import warnings
import zipfile
import zlib
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from vdm_jax import config as configs
from vdm_jax.convert import ddpm_tf, npz
from vdm_jax.errors import UserError
from vdm_jax.gaussian import networks
from vdm_jax.networks import families
from vdm_jax.networks.families import Settings
from vdm_jax.networks.multiscale import UNet

GOLDENS = Path(__file__).parent / "goldens" / "ddpm_tf.npz"
SHAPE = (8, 8, 3)
AVERAGE = "/ExponentialMovingAverage"


def settings(**changes: object) -> Settings:
    return families.settings("ddpm", **{"width": 64, "multipliers": (1, 2), "attention_at": (8,)} | changes)


@cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDENS) as file:
        return dict(file)


def value(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """The recipe of goldens/README.md."""
    normal = np.random.default_rng(zlib.crc32(path.encode())).standard_normal(shape)
    leaf = path.rsplit("/", 1)[1]
    scaled = normal / np.sqrt(np.prod(shape[:-1])) if leaf == "W" else 0.1 * normal + (leaf == "gamma")
    return scaled.astype(np.float32)


@cache
def variables() -> dict[str, np.ndarray]:
    """All that TensorFlow had in a checkpoint; the average is twice the raw weights, Adam's moments are −1."""
    made = {}
    for name, shape in json.loads(golden()["shapes"].tobytes()).items():
        stem = name.removesuffix(AVERAGE)
        if name == "global_step":
            made[name] = np.int64(800_000)
        elif "Adam" in name or "_power" in name:
            made[name] = -np.ones(shape, np.float32)
        else:
            made[name] = value(stem, tuple(shape)) * np.float32(1 + (stem != name))
    return made


def flat() -> dict[str, np.ndarray]:
    """The raw weights."""
    return {k: v for k, v in variables().items() if k.startswith("model/") and not k.endswith((AVERAGE, "Adam", "m_1"))}


@cache
def compiled() -> object:
    return jax.jit(UNet(settings()).apply)


def apply(params: dict) -> np.ndarray:
    g = golden()
    return np.asarray(compiled()({"params": params}, g["z"], g["t"], {}))


@pytest.mark.slow
def test_network_gives_the_output_of_the_original() -> None:
    expected = golden()["out"]
    assert np.abs(expected).max() > 1 and np.abs(expected[0] - expected[1]).max() > 0.5
    np.testing.assert_allclose(apply(ddpm_tf.from_original(flat(), settings(), SHAPE)), expected, rtol=1e-5, atol=1e-5)


MISTAKES = {
    "blocks": ("mid/block_1", "mid/block_2"),
    "queries and values": ("down_0/attn_0/q", "down_0/attn_0/v"),
    "attentions": ("up_0/attn_0", "up_0/attn_2"),
    "norms": ("up_1/block_1/norm2", "down_1/block_1/norm2"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_goldens_notice_a_mistake(mistake: str) -> None:
    a, b = MISTAKES[mistake]
    other = lambda k: k.replace(f"{a}/", f"{b}/") if f"{a}/" in k else k.replace(f"{b}/", f"{a}/")
    swapped = {k: flat()[other(k)] for k in flat()}
    out = apply(ddpm_tf.from_original(swapped, settings(), SHAPE))
    assert np.abs(out - golden()["out"]).max() > 1e-2


def test_round_trip_is_bit_exact() -> None:
    s = settings()
    back = ddpm_tf.to_original(ddpm_tf.from_original(flat(), s, SHAPE), s, SHAPE)
    assert back.keys() == flat().keys()
    for name, leaf in flat().items():
        assert back[name].tobytes() == leaf.tobytes(), name
        assert (back[name].shape, back[name].dtype) == (leaf.shape, leaf.dtype), name


def test_tensors_tell_the_settings() -> None:
    s, found = settings(), ddpm_tf.describe(flat())
    asked = {"inputs": 3, "attends": (True, False)}
    assert found == {field: asked[field] if field in asked else getattr(s, field) for field in found}


FIELDS = {
    "model.width: 64 in the weights, 32 in the config": {"width": 32},
    "model.multipliers: (1.0, 2.0) in the weights, (1, 2, 2) in the config": {"multipliers": (1, 2, 2)},
    "model.depth: 2 in the weights, 1 in the config": {"depth": 1},
    "model.attention_at: (8,) in the weights, (4, 8) in the config": {"attention_at": (4, 8)},
    "model.attention_at: (8,) in the weights, (16,) in the config": {"attention_at": (16,)},
    "model.variance: 'beta' or 'posterior' in the weights, 'learned' in the config": {"outputs": 2},
    "model.heads: 1 in the weights, 4 in the config": {"heads": 4},
    "model.groups: 32 in all such weights, 16 in the config": {"groups": 16},
}


@pytest.mark.slow
@pytest.mark.parametrize("sentence", FIELDS)
def test_a_field_that_differs_is_named_and_so_is_the_first_leaf(sentence: str) -> None:
    with pytest.raises(UserError) as error:
        ddpm_tf.from_original(flat(), settings(**FIELDS[sentence]), SHAPE)
    text = str(error.value)
    unseen = sentence.startswith(("model.heads", "model.groups"))  # by the tensors
    assert sentence in text and f"the first leaf that differs: {'none' if unseen else 'model/'}" in text


@pytest.mark.parametrize("family", ["improved", "ddpmpp", "ncsnpp"])
def test_another_family_is_named(family: str) -> None:
    with pytest.raises(UserError, match=r"config\.model\.family='ddpm'"):
        ddpm_tf.from_original(flat(), families.settings(family), SHAPE)


WRONG = {
    "model/temb/dense1/b of shape .256,. is missing": {"model/temb/dense1/b": None},
    "model/mid/attn_2/q/W of shape .* is not expected": {"model/mid/attn_2/q/W": np.zeros((3, 3), np.float32)},
    "model/temb/dense0/W has the shape .256, 64.": {"model/temb/dense0/W": np.zeros((256, 64), np.float32)},
    "leaf model/conv_in/b of the weights is not an array of floats": {"model/conv_in/b": np.zeros(64, int)},
    "no usable leaf model/conv_in/W": {"model/conv_in/W": None},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_the_first_leaf_that_differs_is_named(sentence: str) -> None:
    leaves = {k: v for k, v in (flat() | WRONG[sentence]).items() if v is not None}
    with pytest.raises(UserError, match=sentence):
        ddpm_tf.from_original(leaves, settings(), SHAPE)


def test_our_parameters_are_checked_as_strictly() -> None:
    s = settings()
    params = flatten_dict(ddpm_tf.from_original(flat(), s, SHAPE), sep="/")
    wrong = {k: v for k, v in params.items() if k != "up0/last/attn/v/bias"}
    with pytest.raises(UserError, match=r"up0/2/attn/v/bias of shape .* is missing"):
        ddpm_tf.to_original(unflatten_dict(wrong, sep="/"), s, SHAPE)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    np.savez(tmp_path / "ddpm.npz", **variables())
    return tmp_path / "ddpm.npz"


def test_an_export_of_a_whole_checkpoint(exported: Path) -> None:
    got = ddpm_tf.read(str(exported))
    assert got.keys() == {"params", "ema_params", "step"} and got["step"] == 800_000
    for which, factor in (("params", 1), ("ema_params", 2)):
        assert got[which].keys() == flat().keys()
        for name, leaf in got[which].items():
            np.testing.assert_array_equal(leaf, factor * flat()[name], strict=True)


def test_an_export_of_the_graph_s_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{f"{name}:0": np.asfortranarray(a) for name, a in flat().items()})
    got = ddpm_tf.read(str(tmp_path / "x.npz"))
    assert got.keys() == {"params"}
    np.testing.assert_array_equal(got["params"]["model/conv_in/W"], flat()["model/conv_in/W"])


@pytest.mark.slow
def test_loaded_weights_fit_the_network_of_the_config(exported: Path) -> None:
    parts = {"method": "ddpm", "model.network": "multiscale", "model.family": "ddpm", "schedule.kind": "ddpm_linear"}
    config = configs.choose(configs.base(), parts)
    config.data.shape, config.data.vocabulary = SHAPE, 256
    config.model.width, config.model.multipliers, config.model.depth = 64, (1.0, 2.0), 2
    config.model.attention_at = (8,)
    init = partial(networks.init, networks.build(config), shape=SHAPE)
    like = {"network": jax.eval_shape(init, jax.random.key(0))}
    for which, factor in (("ema", 2), ("raw", 1)):
        config.evaluation.weights = which
        params, step = ddpm_tf.load(str(exported), config, like)
        assert step == 800_000 and jax.tree.map(np.shape, params) == jax.tree.map(np.shape, like)
        np.testing.assert_array_equal(params["network"]["conv_in"]["kernel"], factor * flat()["model/conv_in/W"])
    config.model.prediction = "v"
    with pytest.raises(UserError, match=r"model\.prediction='v'"):
        ddpm_tf.load(str(exported), config, like)


def saved(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def member(raw: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("a.npy", raw)
    return file.getvalue()


def array(shape: str, dtype: str = "<f4", data: bytes = b"") -> bytes:
    """numpy's format with a header of one's own."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


FILES = {
    "nothing": b"",
    "text": b"hello",
    "an array alone": array("(1,)", data=bytes(4)),
    "cut short": saved(a=np.zeros(100))[:-30],
    "objects": saved(a=np.array([{}, None], object)),
    "a pickle that calls": member(array("(1,)", "|O", b"cos\nsystem\n(S'true'\ntR.")),
    "more than there is": member(array("(1000000000000,)", data=bytes(4))),
    "less than there is": member(array("(1,)", data=bytes(400))),
    "overflow": member(array("(4294967296, 4294967296)")),
    "a negative axis": member(array("(-1, -4)", data=bytes(16))),
    "no numbers": member(array("('a',)", data=bytes(4))),
    "code in a header": member(array("__import__('os')")),
    "no dtype": member(array("(1,)", "nonsense")),
    "no array": member(b"hello"),
    "a version of the future": member(b"\x93NUMPY\x09\x00" + bytes(200)),
    "a bomb": member(array("(30000000,)", data=bytes(120_000_000)), zipfile.ZIP_DEFLATED),
    "other names": saved(a=np.zeros(3)),
    "no names": saved(),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_something_else(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.npz").write_bytes(FILES[kind])
    with pytest.raises(UserError) as error:
        ddpm_tf.read(str(tmp_path / "x.npz"))
    assert "\n" not in str(error.value) and "x.npz" in str(error.value)


def test_places_without_a_file(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere.npz", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            npz.read(str(place))


def test_numbers_of_every_kind(tmp_path: Path) -> None:
    arrays = {
        "empty": np.zeros((0, 3)),
        "scalar": np.float64(2),
        "big": np.arange(3, dtype=">f4"),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    }
    np.savez(tmp_path / "x.npz", **arrays)
    got = npz.read(str(tmp_path / "x.npz"))
    assert got.keys() == arrays.keys() and got["big"].dtype.isnative
    for name, expected in arrays.items():
        np.testing.assert_array_equal(got[name], expected)


def test_whatever_byte_changes_the_file_is_read_or_refused(tmp_path: Path) -> None:
    good = array("(2, 3)", data=np.arange(6, dtype=np.float32).tobytes())
    draw = random.Random(0)
    refusals = 0
    for _ in range(600):
        changed = bytearray(good)
        for _ in range(draw.choice([1, 2, 5])):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        (tmp_path / "x.npz").write_bytes(member(bytes(changed)))  # with a checksum that fits
        try:
            with warnings.catch_warnings(action="ignore"):
                npz.read(str(tmp_path / "x.npz"))
        except UserError:
            refusals += 1
    assert 100 < refusals < 600
