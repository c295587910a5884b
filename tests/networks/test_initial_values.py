"""Initial parameters of every network, leaf by leaf: Flax draws them from names, so renaming a module changes them.

The tables were written by WRITE_GOLDENS=1 python -m pytest -n 0 tests/networks/test_initial_values.py
"""

from __future__ import annotations

import json
import os
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vdm_jax import methods
from vdm_jax.config import active, base, check, choose, flatten
from vdm_jax.config.registry import COMPONENTS

GOLDEN = Path(__file__).parent / "goldens" / "initial_values.json"
WRITE = "WRITE_GOLDENS" in os.environ
SEED = 7

Changes = dict[str, Any]
POINTS: Changes = {
    "data.shape": (2,),
    "data.vocabulary": 0,
    "model.network": "mlp",
    "model.width": 8,
    "model.depth": 2,
    "model.fourier": (),
}
UNET: Changes = {"model.width": 8, "model.groups": 4, "model.depth": 2, "model.fourier": (3.0, 4.0)}
MULTISCALE: Changes = {
    "model.network": "multiscale",
    "model.width": 8,
    "model.groups": 4,
    "model.depth": 1,
    "model.multipliers": (1.0, 2.0),
    "model.attention_at": (4,),
}
CLASSES: Changes = {"model.num_classes": 10}
GUIDED: Changes = {**CLASSES, "model.null_class": True, "training.label_dropout": 0.1}
TABLE: Changes = {
    **MULTISCALE,
    "method": "ddpm",
    "schedule.kind": "ddpm_linear",
    "training.weighting": "simple",
    "model.family": "ddpm",
}
ADM: Changes = {**TABLE, "model.family": "adm", "model.variance": "learned", "model.head_channels": 4}
SDE: Changes = {**MULTISCALE, "method": "sde", "schedule.kind": "vp_sde", "model.family": "ddpmpp"}
VE: Changes = {**SDE, "schedule.kind": "ve_sde", "model.family": "ncsnpp"}
NUMBERED: Changes = {"model.time_input": "index", "training.num_timesteps": 5, "training.weighting": "simple"}
GAN: Changes = {
    "method": "ddgan",
    "model.prediction": "x",
    "schedule.kind": "ddgan_vp",
    "schedule.num_timesteps": 4,
    "training.times": "independent",
    "sampling.num_steps": 4,
}
GAN_IMAGES: Changes = {
    **MULTISCALE,
    **GAN,
    "model.family": "ddgan",
    "model.latent": 6,
    "model.latent_width": 8,
    "model.mapping_depth": 1,
    "model.discriminator_width": 4,
    "model.discriminator_time": 8,
}
# Images that are halved six times.
LARGE: Changes = {
    "data.shape": (64, 64, 1),
    "model.discriminator": "large",
    "model.attention_at": (32,),
}

# name: changes to the defaults, which are those of 8 × 8 digits
CLIP: Changes = {
    "method": "clip",
    "model.network": "vit",
    "data.shape": (32, 32, 3),
    "data.vocabulary": 256,
    "model.width": 8,
    "model.depth": 2,
    "model.heads": 2,
    "model.patch": 16,
    "model.embedding": 4,
    "model.text_width": 8,
    "model.text_depth": 1,
    "model.text_heads": 2,
    "model.context": 8,
    "model.vocabulary": 300,
}

CONFIGS: dict[str, Changes] = {
    "clip_vit": CLIP,
    "clip_noised_vit": {
        **CLIP,
        "model.noised": True,
        "schedule.kind": "ddpm_linear",
        "model.stem": "convolutions",
        "model.key_bias": False,
    },
    "clip_resnet": {**CLIP, "model.network": "resnet", "model.depths": (1, 1, 1, 2)},
    "vdm_unet": UNET,
    "vdm_unet_without_features": {**UNET, "model.fourier": (), "model.attention": True, "schedule.kind": "linear"},
    "vdm_unet_classes": {**UNET, **CLASSES},
    "vdm_unet_null_class": {**UNET, **GUIDED},
    "vdm_unet_structured": {**UNET, "model.initial": "structured", "model.residual": "pixel"},
    "vdm_multiscale": {**MULTISCALE, "model.family": "improved"},
    "mlp": {**POINTS, "schedule.kind": "cosine"},
    "mlp_classes": {**POINTS, **GUIDED},
    "mlp_learned_monotone": {**POINTS, "schedule.kind": "learned_monotone", "schedule.features": 4},
    "mlp_ddpm": {**POINTS, "method": "ddpm", "schedule.kind": "ddpm_cosine"},
    "ddpm": TABLE,
    "ddpm_classes": {**TABLE, **CLASSES},
    "ddpm_of_an_sde": {**SDE, "model.family": "ddpm"},
    "improved": {**TABLE, "model.family": "improved", "model.heads": 2},
    "improved_added_embedding": {**TABLE, "model.family": "improved", "model.scale_shift": False},
    "improved_classes_learned_variance": {
        **TABLE,
        **CLASSES,
        "model.family": "improved",
        "model.variance": "learned",
        "training.weighting": "hybrid",
    },
    "adm_classes": {**ADM, **CLASSES},
    "adm_null_class": {**MULTISCALE, **GUIDED, "model.family": "adm", "model.head_channels": 4},
    "adm_ablation": {**ADM, "model.resample_blocks": False, "model.rescale": True, "model.scale_shift": False},
    "adm_upsampler": {**ADM, **CLASSES, "model.low_resolution": 4},
    "ddpmpp": SDE,
    "ncsnpp_ve": VE,
    "ncsnpp_vp": {**SDE, "model.family": "ncsnpp"},
    "ncsnpp_numbered": {**VE, **NUMBERED},
    "refinenet": {
        **NUMBERED,
        "method": "sde",
        "schedule.kind": "ve_sde",
        "model.network": "refinenet",
        "model.width": 8,
        "model.groups": 4,
    },
    "dequantizer": {
        **SDE,
        "method": "dequantizer",
        "training.times": "importance",
        "model.couplings": 2,
        "model.coupling_width": 8,
        "model.coupling_depth": 1,
    },
    "flow_matching": {
        **UNET,
        "method": "flow_matching",
        "model.prediction": "velocity",
        "schedule.kind": "rectified_flow",
        "sampling.sampler": "heun",
    },
    "classifier": {**TABLE, **CLASSES, "method": "classifier", "model.family": "adm", "model.head_channels": 4},
    "classifier_ddpm": {**TABLE, **CLASSES, "method": "classifier"},
    "ddgan": GAN_IMAGES,
    "ddgan_large": {**GAN_IMAGES, **LARGE},
    "ddgan_augmented": {**GAN_IMAGES, "training.adversary": "augmented", "sampling.num_steps": 1},
    "ddgan_no_latent": {**GAN_IMAGES, "model.latent": 0, "model.prediction": "eps"},
    "ddgan_mlp": {**POINTS, **GAN, "model.latent": 3},
}


def made(name: str) -> ConfigDict:
    """The config of that name; of its changes those that its parts have."""
    held = active(CONFIGS[name])
    config = choose(base(), {field: value for field, value in CONFIGS[name].items() if field in held})
    check(config)
    return config


def leaf(value: Any) -> list[Any]:
    """[dtype, shape, Σ x, Σ x², CRC-32 of the bytes]; the sums in float64, rounded to nine digits."""
    array = np.asarray(value)
    wide = array.astype(np.float64)
    sums = (float(f"{total:.9g}") for total in (wide.sum(), np.square(wide).sum()))
    return [str(array.dtype), list(array.shape), *sums, zlib.crc32(array.tobytes())]


def table(config: ConfigDict) -> dict[str, list[Any]]:
    """Tree path → `leaf` of the initial parameters."""
    params = methods.build(config).init(jax.random.key(SEED))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf(value) for path, value in leaves}


def arithmetic() -> list[Any]:
    """JAX's version and the bits of the draws that initial values are made of: where both agree, so do all bits."""
    key = jax.random.key(SEED)
    draws = jax.random.normal(key, (4096,)), jax.random.truncated_normal(key, -2.0, 2.0, (4096,))
    return [jax.__version__, *(zlib.crc32(np.asarray(draw).tobytes()) for draw in draws)]


@cache
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


def write(name: str, found: dict[str, list[Any]]) -> None:
    """One line a leaf."""
    golden().update({"arithmetic": arithmetic(), name: found})
    ordered = {key: golden()[key] for key in ("arithmetic", *CONFIGS) if key in golden()}
    rows = lambda part: ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in part.items())
    texts = (json.dumps(v) if isinstance(v, list) else "{\n" + rows(v) + "\n }" for v in ordered.values())
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text("{\n" + ",\n".join(f' "{k}": {t}' for k, t in zip(ordered, texts, strict=True)) + "\n}\n")


QUICK = {"mlp", "mlp_classes", "mlp_learned_monotone", "mlp_ddpm"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in CONFIGS])
def test_initial_values_are_those_on_record(name: str) -> None:
    found = table(made(name))
    if WRITE:
        write(name, found)
    expected = golden()[name]
    assert list(found) == list(expected)
    assert {path: row[:2] for path, row in found.items()} == {path: row[:2] for path, row in expected.items()}
    if arithmetic() == golden()["arithmetic"]:
        assert found == expected
    for path, (_, shape, total, squares, _) in expected.items():
        count = float(np.prod(shape))
        # |Σ x| ≤ √(n Σ x²), which is what rounding errors of a sum of both signs are relative to
        np.testing.assert_allclose(found[path][2], total, rtol=1e-6, atol=1e-6 * (count * squares) ** 0.5, err_msg=path)
        np.testing.assert_allclose(found[path][3], squares, rtol=1e-6, err_msg=path)


@pytest.mark.parametrize("field", ["method", "model.network", "model.family", "model.discriminator"])
def test_every_method_and_network_is_on_record(field: str) -> None:
    every = {choice for part in COMPONENTS if field in part.fields for choice in part.fields[field].choices}
    assert {dict(flatten(made(name))).get(field) for name in CONFIGS} - {None} == every


def test_a_leaf_is_described_by_its_sums_and_bytes() -> None:
    halves = jnp.array([[0.5, -1.5], [2.0, 0.0]])
    expected = ["float32", [2, 2], 1.0, 6.5]
    assert leaf(halves)[:4] == leaf(halves[::-1])[:4] == expected
    assert leaf(halves)[4] != leaf(halves[::-1])[4]  # the order is in the bytes alone
