"""What a file is, by its content, and which reader it comes to."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax.serialization import msgpack_serialize

from tests.convert.torch_files import archive, pt
from vdm_jax import config as configs
from vdm_jax.convert import formats, guided_diffusion, improved_diffusion, torch_zip
from vdm_jax.errors import UserError
from vdm_jax.gaussian import networks
from vdm_jax.networks import families

GOLDENS = Path(__file__).parent / "goldens"
TORCH = sorted((GOLDENS / "torch").glob("*.pt"))


@pytest.mark.parametrize("file", TORCH, ids=lambda file: file.stem)
def test_files_of_pytorch(file: Path) -> None:
    assert formats.sniff(str(file)) == ("torch_legacy" if file.stem == "legacy" else "torch_zip")


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def zipped(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr(name, b"x")
    return file.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


def saved_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


FILES = {
    "flax_msgpack": [
        msgpack_serialize({"a": np.zeros(3)}),
        msgpack_serialize({"step": 3, "params_ema": {"Conv_0": {"kernel": np.zeros((3, 3))}}}),
        msgpack.packb({f"leaf {i}": i for i in range(20)}),
        msgpack.packb({"a long name " * 10: 1}),
        b"\xdf" + (1).to_bytes(4, "big") + msgpack.packb("a") + msgpack.packb(1),
    ],
    "npz": [npz(a=np.zeros(3)), npz(**{"model/conv_in/W": np.zeros(3), "b": np.ones(())})],
    "torch_zip": [archive(others={"constants.pkl": b"", "code/__torch__.py": b""})],
    "safetensors": [safetensors()],
    "pickle": [pickle.dumps({"a": np.zeros(3)}, protocol) for protocol in (2, 3, 4, 5)],
    "npy": [saved_array()],
    "hdf5": [b"\x89HDF\r\n\x1a\n" + bytes(100)],
    "zip": [zipped("a/model.bin"), zipped("model.npz"), zipped("data.pkl"), npz()],
    "cut_short": [b"PK\x03\x04", archive()[:-40], zipped("a/model.bin")[:30]],
    "unknown": [b"", b"hello", b"\x80", b"\x81\x01\x02", bytes(1000), msgpack.packb([1, 2]), b"{" * 100, b"\xde"],
}
CASES = [(kind, raw) for kind, contents in FILES.items() for raw in contents]


@pytest.mark.parametrize(("kind", "raw"), CASES, ids=[f"{kind}{i}" for i, (kind, _) in enumerate(CASES)])
def test_files_are_known_by_their_content(tmp_path: Path, kind: str, raw: bytes) -> None:
    (tmp_path / "weights.pt").write_bytes(raw)  # whatever the name says
    assert formats.sniff(str(tmp_path / "weights.pt")) == kind


def test_checkpoints_of_several_files(tmp_path: Path) -> None:
    for name in ("clu/checkpoints-0/ckpt-3.flax", "flax/checkpoints/checkpoint_5", "tf/model.ckpt-7.index", "x/y/z"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(msgpack_serialize({"a": np.zeros(3)}))
    (tmp_path / "tf" / "model.ckpt-7.data-00000-of-00001").write_bytes(b"numbers")
    expected = {
        "clu": "clu",
        "clu/checkpoints-0": "clu",
        "clu/checkpoints-0/ckpt-3": "clu",
        "clu/checkpoints-0/ckpt-3.flax": "flax_msgpack",
        "flax": "flax_msgpack",
        "flax/checkpoints/checkpoint_5": "flax_msgpack",
        "tf": "tf_checkpoint",
        "tf/model.ckpt-7": "tf_checkpoint",
        "tf/model.ckpt-7.index": "tf_checkpoint",
        "tf/model.ckpt-7.data-00000-of-00001": "tf_checkpoint",
        "x": "directory",
    }
    assert {place: formats.sniff(str(tmp_path / place)) for place in expected} == expected
    with pytest.raises(UserError, match="there is nothing at"):
        formats.sniff(str(tmp_path / "clu" / "ckpt-3"))


def config(method: str = "ddpm", family: str = "improved") -> configs.ConfigDict:
    schedule = "vp_sde" if method == "sde" else "learned_scalar" if method == "vdm" else "ddpm_cosine"
    parts = {"method": method, "model.network": "multiscale", "model.family": family, "schedule.kind": schedule}
    made = configs.choose(configs.base(), parts | ({"model.variance": "learned"} if method == "ddpm" else {}))
    made.data.shape, made.data.vocabulary = (8, 8, 3), 256
    made.model.width, made.model.multipliers, made.model.depth = 32, (1.0, 2.0), 1
    made.model.attention_at, made.model.heads = (4,), 4
    return made


def refused(path: Path, method: str = "ddpm") -> str:
    with pytest.raises(UserError) as error:
        formats.load(str(path), config(method), None)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", ["pickle", "npy", "hdf5", "zip", "cut_short", "unknown"])
def test_what_is_not_read_gets_a_sentence(tmp_path: Path, kind: str) -> None:
    (tmp_path / "weights").write_bytes(FILES[kind][0])
    assert formats.REFUSED[kind] in refused(tmp_path / "weights")


def test_a_legacy_file_and_an_empty_directory_get_a_sentence(tmp_path: Path) -> None:
    assert "torch.save(torch.load(" in refused(GOLDENS / "torch" / "legacy.pt")
    assert "give a working directory, or the file of weights itself (….pt" in refused(tmp_path)


@pytest.mark.parametrize("names", [("samples",), ("samples", "labels", "guidance"), ("arr_0", "arr_1")])
def test_samples_in_the_place_of_weights_are_called_samples(tmp_path: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "9.npz").write_bytes(npz(**{name: np.zeros((2, 8, 8, 3)) for name in names}))
    for method in ("ddpm", "vdm"):
        text = refused(tmp_path / "9.npz", method)
        assert "is samples that a model drew, not weights; give the working directory" in text and "DDPM" not in text


def test_arrays_that_are_no_weights_are_not_called_ddpm_s(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(npz(a=np.zeros(3)))
    assert "x.npz is an .npz file of arrays, which config.method='vdm' can't take; 'ddpm' can" in refused(
        tmp_path / "x.npz", "vdm"
    )
    assert "holds a, not the variables of hojonathanho/diffusion" in refused(tmp_path / "x.npz", "ddpm")


def test_a_data_set_in_the_place_of_weights_is_called_data(tmp_path: Path) -> None:
    for names in (("x_train", "y_train", "x_test", "y_test"), ("images", "labels"), ("x",)):
        (tmp_path / "set.npz").write_bytes(npz(**{name: np.zeros((2, 8, 8, 3)) for name in names}))
        for method in ("ddpm", "vdm"):
            assert "set.npz is a data set of images, not weights; name it in config.data.path" in refused(
                tmp_path / "set.npz", method
            )


def test_a_prefix_is_known_by_the_files_that_begin_with_it(tmp_path: Path) -> None:
    (tmp_path / "ckpt-41.flax").write_bytes(b"")
    (tmp_path / "model.ckpt-7.index").write_bytes(b"")
    found = [formats.is_prefix(str(tmp_path / name)) for name in ("ckpt-41", "model.ckpt-7", "ckpt-4", "ckpt-41.flax")]
    assert found == [True, True, False, False]


def test_advice_is_python() -> None:
    compile(formats.REFUSED["tf_checkpoint"].split(": ", 1)[1], "advice", "exec")


def test_a_file_for_another_method_names_the_method(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(FILES["flax_msgpack"][0])
    assert "'vdm', 'ddpm' and 'sde' can" in refused(tmp_path / "weights", "classifier")
    assert "'ddpm', 'sde', 'classifier', 'ddgan' and 'clip' can" in refused(GOLDENS / "torch" / "state_dict.pt", "vdm")
    assert "'ddpm' can" in refused(GOLDENS / "ddpm_tf.npz", "vdm")


def saved(tmp_path: Path, made: configs.ConfigDict, to_original: Callable) -> tuple[str, Any, Any]:
    """(a .pt file of random parameters of the config's network, they themselves, their shapes)."""
    init = partial(networks.init, networks.build(made), shape=(8, 8, 3))
    like = {"network": jax.eval_shape(init, jax.random.key(0))}
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), like)
    (tmp_path / "ema_0.9999_500000.pt").write_bytes(pt(to_original(params["network"])))
    return str(tmp_path / "ema_0.9999_500000.pt"), params, like


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    made = config("classifier", "adm")
    params = {"classifier": {"a": jnp.ones(3), "b": jnp.asarray([1.0, jnp.nan]), "n": jnp.arange(3)}}
    assert formats.first_not_finite(params) == "classifier/b" and formats.first_not_finite({"a": jnp.ones(2)}) is None
    (tmp_path / "weights.pt").write_bytes((GOLDENS / "torch" / "state_dict.pt").read_bytes())
    reader = {"classifier": {"torch_zip": lambda path, config, like: (params, 7)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "_READERS", reader)
        with pytest.raises(UserError, match=r"weights\.pt has NaN or infinite numbers in the leaf classifier/b"):
            formats.load(str(tmp_path / "weights.pt"), made, None)


@pytest.mark.slow
def test_improved_diffusion_s_file_becomes_the_parameters_of_the_config(tmp_path: Path) -> None:
    made = config()
    s = families.settings("improved", width=32, multipliers=(1, 2), depth=1, attention_at=(4,), outputs=2)
    path, params, like = saved(tmp_path, made, lambda p: improved_diffusion.to_original(p, s, (8, 8, 3)))
    got, step = formats.load(path, made, like)
    assert step == 0
    jax.tree.map(np.testing.assert_array_equal, got, params)

    made.model.depth = 2
    with pytest.raises(UserError, match="depth: 1 in the weights, 2 in the"):
        formats.load(path, made, like)


def test_guided_diffusion_s_classifier_becomes_the_parameters_of_the_config(tmp_path: Path) -> None:
    made = config("classifier", "adm")
    made.model.heads, made.model.head_channels, made.model.qkv_order, made.model.num_classes = 1, 16, "legacy", 7
    configs.choose(made, {"schedule.kind": "ddpm_linear"})
    s = families.settings("adm", width=32, multipliers=(1, 2), depth=1, attention_at=(4,), head_channels=16, outputs=1)
    path, params, like = saved(tmp_path, made, lambda p: guided_diffusion.to_original(p, s, (8, 8, 3), "legacy", 7))
    jax.tree.map(np.testing.assert_array_equal, formats.load(path, made, like)[0], params)
    configs.choose(made, {"method": "ddpm", "schedule.kind": "ddpm_cosine"})
    with pytest.raises(UserError, match="the weights are a classifier's, and a U-Net's are required"):
        formats.load(path, made, like)


def test_safetensors_are_read_wherever_a_pt_is(tmp_path: Path) -> None:
    save = pytest.importorskip("safetensors.numpy").save
    made = config("classifier", "adm")
    made.model.heads, made.model.head_channels, made.model.qkv_order, made.model.num_classes = 1, 16, "legacy", 7
    configs.choose(made, {"schedule.kind": "ddpm_linear"})
    s = families.settings("adm", width=32, multipliers=(1, 2), depth=1, attention_at=(4,), head_channels=16, outputs=1)
    path, params, like = saved(tmp_path, made, lambda p: guided_diffusion.to_original(p, s, (8, 8, 3), "legacy", 7))
    tensors = {name: np.array(a, order="C") for name, a in torch_zip.read(path).items()}
    (tmp_path / "model.safetensors").write_bytes(save(tensors))
    got, _ = formats.load(str(tmp_path / "model.safetensors"), made, like)
    jax.tree.map(np.testing.assert_array_equal, got, params)
    assert {method for method, readers in formats._READERS.items() if "safetensors" in readers} == {
        method for method, readers in formats._READERS.items() if "torch_zip" in readers
    }


@pytest.mark.slow
def test_guided_diffusion_s_file_is_read_in_the_order_of_the_config_and_in_none_without(tmp_path: Path) -> None:
    made = config(family="adm")
    made.model.heads, made.model.head_channels = 1, 16
    s = families.settings("adm", width=32, multipliers=(1, 2), depth=1, attention_at=(4,), head_channels=16)
    path, params, like = saved(tmp_path, made, lambda p: guided_diffusion.to_original(p, s, (8, 8, 3), "new"))
    with pytest.raises(UserError, match="qkv_order='unknown': no tensor"):
        formats.load(path, made, like)
    for made.model.qkv_order in ("new", "legacy"):
        got, _ = formats.load(path, made, like)
        same = jax.tree.map(np.array_equal, got, params)
        attention = same["network"]["mid_attn"]
        assert attention["proj_out"]["kernel"] and attention["q"]["kernel"] == (made.model.qkv_order == "new")
        assert all(jax.tree.leaves(same)) == (made.model.qkv_order == "new")
