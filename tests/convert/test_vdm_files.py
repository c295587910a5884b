"""Checkpoints of google-research/vdm on the disk, whole and broken, and trees not quite theirs."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from flax.traverse_util import flatten_dict, unflatten_dict

from vdm_jax import config as configs
from vdm_jax import weights
from vdm_jax.convert import clu, vdm
from vdm_jax.convert.vdm_layout import Layout, leaves, schedule_shapes
from vdm_jax.errors import UserError
from vdm_jax.methods import build

LAYOUT = Layout(3, 32, 3, True, True, "learned_scalar", 0)


def tree(layout: Layout = LAYOUT, offset: float = 0.0) -> dict:
    """The original's parameters; every leaf has numbers of its own."""
    shapes = {k: leaf.shape for k, leaf in leaves(layout).items()} | schedule_shapes(layout)
    rng = np.random.default_rng(0)
    flat = {k: (rng.standard_normal(s) + offset).astype(np.float32) for k, s in shapes.items()}
    return unflatten_dict(flat, sep="/")


def state(step: int) -> bytes:
    """A train state as the original saves it; its numbers tell the step."""
    moments = {"count": np.int32(step), "mu": {"w": np.zeros(3, np.float32)}}
    return msgpack_serialize(
        {
            "step": np.asarray(step, np.int32),
            "params": tree(offset=-step),
            "ema_params": tree(offset=step),
            "opt_state": {"0": moments, "1": {"inner_state": {}}, "2": {}},
        }
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What `gsutil cp -r gs://…/checkpoint-final .` leaves."""
    directory = tmp_path / "checkpoint-final" / "checkpoints-0"
    directory.mkdir(parents=True)
    for number in (9, 10):
        (directory / f"ckpt-{number}.flax").write_bytes(state(number))
        (directory / f"ckpt-{number}.index").write_bytes(b"of TensorFlow")
        (directory / f"ckpt-{number}.data-00000-of-00001").write_bytes(b"of TensorFlow")
    (directory / "checkpoint").write_text(
        'model_checkpoint_path: "ckpt-10"\nall_model_checkpoint_paths: "ckpt-9"\n'
        'all_model_checkpoint_paths: "ckpt-10"\nlast_preserved_timestamp: 1655148690.0\n'
    )
    return directory


def refused(path: Path) -> str:
    """The one sentence with which `path` is refused."""
    with pytest.raises(UserError) as error:
        vdm.read(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("part", ["..", ".", "ckpt-10.flax", "ckpt-10"])
def test_every_way_to_point_at_a_checkpoint(copy: Path, part: str) -> None:
    got = vdm.read(str((copy / part).resolve()))
    assert got.keys() == {"step", "params", "ema_params"} and got["step"] == 10
    for name, sign in (("params", -1), ("ema_params", 1)):
        expected = flatten_dict(tree(offset=10 * sign))
        for path, leaf in flatten_dict(got[name]).items():
            np.testing.assert_array_equal(leaf, expected[path])


def test_a_half_written_newer_file_is_not_taken(copy: Path) -> None:
    (copy / "ckpt-11.flax").write_bytes(state(11)[:1000])
    assert vdm.read(str(copy))["step"] == 10


@pytest.mark.parametrize("index", [None, 'model_checkpoint_path: "/elsewhere/ckpt-99"\n', "\n"])
def test_without_a_usable_index_the_highest_number_counts(copy: Path, index: str | None) -> None:
    (copy / "checkpoint").unlink()
    if index is not None:
        (copy / "checkpoint").write_text(index)
    assert vdm.read(str(copy))["step"] == 10  # and not 9, the last by name


def test_an_index_with_full_paths_is_followed(copy: Path) -> None:
    (copy / "checkpoint").write_text('model_checkpoint_path: "/job/run/checkpoints-0/ckpt-9"\n')
    assert vdm.read(str(copy))["step"] == 9


def test_bare_parameters_under_another_name_are_taken_too(tmp_path: Path) -> None:
    (tmp_path / "weights.msgpack").write_bytes(msgpack_serialize(tree()))
    got = vdm.read(str(tmp_path / "weights.msgpack"))
    assert got.keys() == {"params"} and got["params"].keys() == {"score_model", "gamma"}


def test_norms_of_old_flax_lose_their_unit_axes(tmp_path: Path) -> None:
    old = {k: v.reshape(1, 1, 1, -1) if "GroupNorm" in k else v for k, v in flatten_dict(tree(), sep="/").items()}
    (tmp_path / "ckpt-1.flax").write_bytes(msgpack_serialize(unflatten_dict(old, sep="/")))
    got = vdm.read(str(tmp_path))["params"]
    back = vdm.to_original(vdm.from_original(got))
    for name, leaf in flatten_dict(back, sep="/").items():
        np.testing.assert_array_equal(leaf, flatten_dict(tree(), sep="/")[name])


def test_places_without_a_checkpoint(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "nowhere", copy / "ckpt-8", copy / "ckpt-8.flax"):
        assert clu.find(str(place)) is None
        assert str(place) in refused(place)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.9999])
def test_a_file_cut_short(copy: Path, kept: float) -> None:
    file = copy / "ckpt-10.flax"
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    assert "cut short" in refused(copy)


def foreign() -> dict[str, bytes]:
    array = io.BytesIO()
    np.savez(array, a=np.zeros(3))
    huge = msgpack.packb(((2**40, 2**20), "float32", b"\0" * 12))
    return {
        "text": b"# a README\n",
        "zip": array.getvalue(),
        "pickle": pickle.dumps({"params": 1}),
        "noise": np.random.default_rng(0).bytes(5000),
        "array larger than its bytes": msgpack.packb({"params": msgpack.ExtType(1, huge)}),
        "unknown dtype": msgpack.packb(msgpack.ExtType(1, msgpack.packb(((3,), "no", b"abc")))),
        "very deep": b"\x91" * 100_000 + b"\x00",
        "a list": msgpack.packb([1, 2]),
        "a number": msgpack.packb(7),
        "another model": msgpack_serialize({"params": {"Dense_0": {"kernel": np.zeros(3)}}}),
        "no tree": msgpack_serialize({"step": 3, "params": 4}),
        "half a state": msgpack_serialize({"params": tree(), "ema_params": {}}),
    }


@pytest.mark.parametrize("kind", foreign())
def test_a_file_of_something_else(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "ckpt-1.flax"
    file.write_bytes(foreign()[kind])
    assert str(file) in refused(tmp_path)


def test_an_absurdly_large_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "ckpt-1.flax").open("wb") as file:
        file.truncate(clu.MAX_BYTES + 1)  # sparse: takes no room on the disk
    assert "16 GiB is the limit" in refused(tmp_path)


def changed(**changes: object) -> dict:
    """The tree with leaves replaced, or removed where None; '__' stands for '/', '_' for itself."""
    flat = flatten_dict(tree(), sep="/") | {k.replace("__", "/"): v for k, v in changes.items()}
    return unflatten_dict({k: v for k, v in flat.items() if v is not None}, sep="/")


def without(part: str) -> dict:
    flat = flatten_dict(tree(), sep="/")
    return unflatten_dict({k: v for k, v in flat.items() if part not in k}, sep="/")


WRONG = {
    "missing leaf": (changed(score_model__dense1__bias=None), "score_model/dense1/bias"),
    "missing γ": (changed(gamma__b=None), "gamma/b"),
    "extra leaf": (changed(score_model__dense2__bias=np.zeros(3)), "score_model/dense2/bias"),
    "extra γ": (changed(gamma__l1__bias=np.zeros(1)), "gamma/l1/bias"),
    "transposed": (changed(score_model__dense0__kernel=np.zeros((128, 33))), "score_model/dense0/kernel"),
    "integers": (changed(score_model__dense0__bias=np.zeros(128, int)), "score_model/dense0/bias"),
    "no array": (changed(score_model__dense0__bias="zeros"), "score_model/dense0/bias"),
    "no first layer": (without("conv_in/kernel"), "score_model/conv_in/kernel"),
    "missing block": (without("down.block_1"), "score_model/down.block_1/GroupNorm_0/bias"),
    "missing last block": (without("up.block_3"), "score_model/up.block_3/GroupNorm_0/bias"),
    "missing attention": (without("up.attn_2"), "score_model/up.attn_2/GroupNorm_0/bias"),
    "empty": ({}, "score_model/conv_"),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_first_leaf_that_differs_is_named(what: str) -> None:
    wrong, name = WRONG[what]
    with pytest.raises(UserError, match=name):
        vdm.from_original(wrong)


def test_our_parameters_are_checked_as_strictly() -> None:
    params = vdm.from_original(tree())
    flat = flatten_dict(params, sep="/")
    stack = flat["network/down/res/conv1/kernel"]
    cases = {
        "norm_out/bias": flat | {"network/norm_out/bias": np.zeros(3, np.float32)},
        "up/attn/q/kernel": {k: v for k, v in flat.items() if k != "network/up/attn/q/kernel"},
        "down/attn/k/bias": flat | {"network/down/res/conv1/kernel": stack[:2]},
        "span": {k: v for k, v in flat.items() if k != "schedule/span"},
    }
    for name, wrong in cases.items():
        with pytest.raises(UserError, match=name):
            vdm.to_original(unflatten_dict(wrong, sep="/"))


def test_fields_that_differ_from_the_config_are_named() -> None:
    config = configs.base()
    config.data.shape = (32, 32, 3)
    config.model.width, config.model.depth, config.model.attention = 32, 3, True
    flat = dict(configs.flatten(config))
    assert vdm.differences(tree(), flat) == []
    assert set(vdm.describe(tree())) <= flat.keys()
    vdm.from_original(tree(), flat)
    other = flat | {
        "model.width": 64,
        "model.depth": 4,
        "model.attention": False,
        "model.fourier": (3, 4),
        "model.groups": 16,
        "model.prediction": "v",
        "schedule.kind": "cosine",
    }
    assert vdm.differences(tree(), other) == [
        "model.width: 32 in the weights, 64 in the config",
        "model.depth: 3 in the weights, 4 in the config",
        "model.attention: True in the weights, False in the config",
        "model.fourier: (7, 8) in the weights, (3, 4) in the config",
        "model.groups: 32 in the weights, 16 in the config",
        "model.prediction: 'eps' in the weights, 'v' in the config",
        "schedule.kind: 'learned_scalar' in the weights, 'cosine' in the config",
    ]
    with pytest.raises(UserError, match=r"model\.depth: 3 in the weights, 4 in the config"):
        vdm.from_original(tree(), flat | {"model.depth": 4})
    monotone = tree(LAYOUT._replace(schedule="learned_monotone", features=16, fourier=False))
    assert vdm.describe(monotone)["schedule.features"] == 16
    assert vdm.describe(monotone)["model.fourier"] == ()


def test_loaded_weights_fit_the_method_of_the_config(copy: Path) -> None:
    config = configs.base()
    config.data.shape, config.data.vocabulary = (8, 8, 3), 256
    config.model.width, config.model.depth, config.model.attention = 32, 3, True
    method = build(config)
    for which, sign in (("ema", 1), ("raw", -1)):
        config.evaluation.weights = which
        params, step = weights.load(str(copy.parent), config, method)
        assert step == 10
        assert jax.tree.map(jnp.shape, params) == jax.tree.map(
            jnp.shape, jax.eval_shape(method.init, jax.random.key(0))
        )
        np.testing.assert_array_equal(params["schedule"]["span"], tree(offset=sign * 10)["gamma"]["w"][0])
    config.evaluation.weights = "ema"
    params, step = weights.load(str(copy / "ckpt-9"), config, method)  # a prefix, which is no file
    assert step == 9
    np.testing.assert_array_equal(params["schedule"]["span"], tree(offset=9)["gamma"]["w"][0])
    with pytest.raises(UserError, match=r"no weights at .*ckpt-8; give a working directory"):
        weights.load(str(copy / "ckpt-8"), config, method)
    config.data.shape = (8, 8, 1)
    with pytest.raises(UserError, match="network/conv_in/kernel"):
        weights.load(str(copy), config, build(config))
