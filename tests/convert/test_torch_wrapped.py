"""Files whose state_dict lies behind prefixes or among other things: what is taken is the network's tensors."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.convert.torch_files import archive, plain, program, pt, storage, tensor
from vdm_jax.convert import torch_wrapped, torch_zip
from vdm_jax.convert.vdm_layout import flatten
from vdm_jax.errors import UserError

PLAIN = {"conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "out.bias": np.float32([1, 2, 3])}
OTHER = {name: leaf + 10 for name, leaf in PLAIN.items()}
COUNT = np.asarray(41)


def behind(prefix: str, flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}{name}": leaf for name, leaf in flat.items()}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[k], expected[k]) for k in expected)


WRAPPED = {
    "as it is": PLAIN,
    "DataParallel": behind("module.", PLAIN),
    "torch.compile": behind("_orig_mod.", PLAIN),
    "both": behind("_orig_mod.module.", PLAIN),
    "a Lightning module": behind("model.", PLAIN),
    "a Lightning module with a loss": behind("model.module.", PLAIN) | {"loss.weight": np.ones(3)},
    "a model and a step": behind("model.", PLAIN) | {"step": COUNT},
    "a training state": behind("model_state_dict.", PLAIN)
    | {"epoch": COUNT, "optimizer.state.0.exp_avg": np.ones((2, 3)), "optimizer.param_groups.0.lr": np.asarray(1e-3)},
    "AveragedModel": behind("module.", PLAIN) | {"n_averaged": COUNT},
    "an average alone": behind("ema.", PLAIN) | {"decay": np.asarray(0.999)},
    "an average with a decay": behind("ema.shadow.", PLAIN)
    | {"ema.decay": np.asarray(0.999), "ema.num_updates": COUNT},
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_prefixes_and_other_parts_are_left_out(kind: str, weights: str) -> None:
    assert same(torch_wrapped.unwrapped(WRAPPED[kind], weights), PLAIN)


@pytest.mark.parametrize("average", ["ema", "ema_model", "model_ema", "ema_state_dict"])
def test_of_a_model_and_its_average_the_config_chooses(average: str) -> None:
    both = behind("model.", OTHER) | behind(f"{average}.module.", PLAIN) | {"step": COUNT}
    assert same(torch_wrapped.unwrapped(both, "ema"), PLAIN)
    assert same(torch_wrapped.unwrapped(both, "raw"), OTHER)


def test_an_average_without_names_is_refused_with_what_to_do(tmp_path: Path) -> None:
    nameless = {f"ema.shadow_params.{i}": leaf for i, leaf in enumerate(PLAIN.values())}
    (tmp_path / "alone.pt").write_bytes(pt(nameless))
    with pytest.raises(UserError, match=r"alone\.pt keeps an average as a list without names \(shadow_params\); copy"):
        torch_wrapped.read(str(tmp_path / "alone.pt"), "raw")
    beside = nameless | behind("model.", PLAIN)
    with pytest.raises(UserError, match=r"config\.evaluation\.weights='raw' uses the raw model of the same file$"):
        torch_wrapped.unwrapped(beside, "ema")
    assert same(torch_wrapped.unwrapped(beside, "raw"), PLAIN)


def test_a_word_before_every_name_is_said_with_how_to_leave_it_out(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(pt(behind("denoise_fn.", PLAIN)))
    with pytest.raises(UserError) as error:
        torch_wrapped.read(str(tmp_path / "x.pt"), "ema")
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'x.pt'} has 'denoise_fn.' before every name; ") and "\n" not in text
    compile(text.split("save it without: ", 1)[1], "advice", "eval")


def test_bfloat16_tensors_are_floats(tmp_path: Path) -> None:
    value = np.arange(-3, 3).reshape(2, 3).astype(ml_dtypes.bfloat16)
    described = program({"module.w": tensor(of=storage(kind=b"torch\nBFloat16Storage"))})
    (tmp_path / "x.pt").write_bytes(archive(described, {"0": value.tobytes()}))
    found = flatten(torch_wrapped.read(str(tmp_path / "x.pt"), "ema"))
    np.testing.assert_array_equal(found["w"], value, strict=True)
    with pytest.raises(UserError, match="leaf n of the weights is not an array of floats"):
        flatten({"w": value, "n": np.zeros(3, np.int32)})


def options(**values: Any) -> bytes:
    """Instructions that push a namespace as `torch.save` writes it."""
    return pickle.dumps(argparse.Namespace(**values), 2)[2:-1]


def test_options_of_a_command_line_beside_tensors_are_left_out(tmp_path: Path) -> None:
    values = {"args": options(lr=1e-4, ch_mult=[1, 2], resume=None), "epoch": plain(3), "x": tensor()}
    (tmp_path / "x.pt").write_bytes(archive(program(values), {"0": np.arange(6, dtype=np.float32).tobytes()}))
    found = torch_zip.read(str(tmp_path / "x.pt"))
    assert found.keys() == {"epoch", "x"} and found["epoch"] == 3
    np.testing.assert_array_equal(found["x"], [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    "raw",
    [
        b"cargparse\nArgumentParser\n)\x81",
        b"cargparse\nNamespace\n" + plain((1,)) + b"\x81",
        b"cargparse\nNamespace\n)R",
        b"cargparse\nNamespace\n",
        plain("argparse.Namespace") + b")\x81",
    ],
)
def test_nothing_else_is_made_of_that_name(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(archive(program({"x": raw})))
    with pytest.raises(UserError, match=r"refers to|holds more than tensors|calls argparse|not a tensor"):
        torch_zip.read(str(tmp_path / "x.pt"))
