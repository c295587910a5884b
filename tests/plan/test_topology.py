"""Names of slices, and chips by what jax calls them."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from vdm_jax.errors import UserError
from vdm_jax.plan import topology
from vdm_jax.runtime import chips


@pytest.mark.parametrize(
    ("name", "count", "hosts", "wraps"),
    [
        ("v5e:2x4", 8, 1, (False, False)),
        ("v5e:16x16", 256, 64, (True, True)),
        ("v6e:8x16", 128, 32, (False, True)),
        ("V4:2x2x4", 16, 4, (False, False, False)),
        ("v5p:4x4x4", 64, 16, (True, True, True)),
        ("v3:32x32", 1024, 256, (True, True)),
    ],
)
def test_a_slice_by_name(name: str, count: int, hosts: int, wraps: tuple[bool, ...]) -> None:
    found = topology.parse(name)
    assert (found.name, found.chips, found.hosts, found.wraps) == (name.lower(), count, hosts, wraps)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("v5:2x4", "did you mean 'v5"),
        ("tpu7:2x2x1", "did you mean 'tpu7x'"),
        ("v5e", "lacks the shape"),
        ("v5e:", "2x4"),
        ("v5e:twoxfour", "lacks the shape"),
        ("v5e:3x3", "'v5e:2x4'"),
        ("v5e:32x32", "'v5e:16x16'"),
        ("v4:2x4", "'v4:2x2x2'"),
        ("", "is not a TPU"),
    ],
)
def test_what_is_no_slice_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UserError, match="--topology") as caught:
        topology.parse(name)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_shape_of_the_table_parses() -> None:
    for kind, shapes in topology.SHAPES.items():
        assert [topology.parse(f"{kind}:{shape}").name for shape in shapes] == [f"{kind}:{shape}" for shape in shapes]


def test_without_libtpu_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'vdm_jax\[plan\]'"):
        topology.devices(topology.parse("v5e:2x2"))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v2", "v2"),
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
    ],
)
def test_chips_by_what_jax_calls_them(kind: str, name: str) -> None:
    found = chips.of_kind(kind)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA L40S", "TPU v99", ""])
def test_an_unknown_chip_has_no_peak(kind: str) -> None:
    assert chips.of_kind(kind) is None
    assert chips.peak_flops(kind, "float32") is None
    assert chips.mfu(1e12, 1.0, 1, kind, "float32") is None


def test_a_device_of_jax_may_be_half_a_chip() -> None:
    assert chips.peak_flops("TPU v3", "bfloat16") == 123e12 / 2
    assert chips.peak_flops("TPU v4", "bfloat16") == 275e12


def test_mfu_is_the_share_of_what_all_devices_could_have_done() -> None:
    arguments: tuple[Any, ...] = (4 * 197e12, 2.0, 8, "TPU v5 lite", "bfloat16")
    assert chips.mfu(*arguments) == pytest.approx(0.25)
    assert chips.mfu(4 * 156e12, 2.0, 8, "NVIDIA A100-SXM4-80GB", "float32") == pytest.approx(0.25)


def test_figures_are_plausible_and_sourced() -> None:
    for chip in (*chips.TPUS.values(), *chips.GPUS.values()):
        assert chip.source
        assert 0 < chip.f32 <= chip.bf16
        assert 3 < chip.bf16 / chip.bandwidth < 600  # FLOP a byte
        assert set(chip.unverified) <= set(chip._fields)
