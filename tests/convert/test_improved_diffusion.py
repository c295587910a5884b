"""improved-diffusion's numbers at random parameters (goldens/README.md), its names, and what is none of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.convert.openai_recipe import Goldens
from vdm_jax.convert import improved_diffusion as original
from vdm_jax.errors import UserError
from vdm_jax.networks import families
from vdm_jax.networks.families import Settings

golden = Goldens("improved_diffusion.npz")
shape, state_dict = golden.shape, golden.state_dict
CASES = {
    "conditional": families.settings(
        "improved", width=32, multipliers=(1, 2), attention_at=(4,), num_classes=10, outputs=2
    ),
    "lsun": families.settings(
        "improved", width=32, multipliers=(1, 1, 2), depth=1, attention_at=(2,), heads=1, scale_shift=False
    ),
}
CONDITIONAL = CASES["conditional"]


def error(name: str, flat: dict[str, np.ndarray], s: Settings) -> float:
    return golden.error(name, original.from_original(flat, s, shape(name)), s)


@pytest.mark.parametrize("name", CASES)
def test_network_gives_the_output_of_the_original(name: str) -> None:
    expected = golden(name)["out"]
    assert np.abs(expected).max() > 1 and np.abs(expected[0] - expected[1]).max() > 0.5
    assert error(name, state_dict(name), CASES[name]) < 1


def edited(part: str, edit: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    return {key: edit(leaf) if part in key else leaf for key, leaf in state_dict("conditional").items()}


def swap_halves(a: np.ndarray) -> np.ndarray:
    return np.concatenate(np.split(a, 2)[::-1])


def heads_inside(a: np.ndarray) -> np.ndarray:
    """[head][q | k | v] rows → [q | k | v][head], the other order that OpenAI has used."""
    return np.ascontiguousarray(a.reshape(4, 3, -1, *a.shape[1:]).swapaxes(0, 1)).reshape(a.shape)


@pytest.mark.parametrize(
    ("mistake", "flat", "s"),
    [
        ("shift and scale", edited("emb_layers", swap_halves), CONDITIONAL),
        ("order of q, k and v", edited("qkv", heads_inside), CONDITIONAL),
        ("epsilon of the norms", state_dict("conditional"), replace(CONDITIONAL, epsilon=1e-6)),
        ("padding behind only", state_dict("conditional"), replace(CONDITIONAL, padding=None)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_goldens_notice_a_mistake(mistake: str, flat: dict[str, np.ndarray], s: Settings) -> None:
    assert error("conditional", flat, s) > 3


@pytest.mark.parametrize("name", CASES)
def test_round_trip_is_bit_exact(name: str) -> None:
    s, flat = CASES[name], state_dict(name)
    back = original.to_original(original.from_original(flat, s, shape(name)), s, shape(name))
    assert list(back) == list(flat)  # in the original's order
    for key, leaf in flat.items():
        assert back[key].tobytes() == leaf.tobytes(), key
        assert (back[key].shape, back[key].dtype) == (leaf.shape, leaf.dtype), key


@pytest.mark.parametrize("name", CASES)
def test_tensors_tell_the_settings(name: str) -> None:
    s, (height, _, channels) = CASES[name], shape(name)
    found = original.describe(state_dict(name), s, shape(name))
    asked = {"inputs": channels, "attends": s.attends(height)}
    assert found == {field: asked[field] if field in asked else getattr(s, field) for field in found}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "keys", "other"),
    [
        (32, 446, {}),
        (64, 450, {"multipliers": (1, 2, 3, 4)}),
        (64, 451, {"multipliers": (1, 2, 3, 4), "width": 192, "num_classes": 1000}),
        (256, 426, {"multipliers": (1, 1, 2, 2, 4, 4), "depth": 2, "heads": 1, "attention_at": (16,)}),
    ],
)
def test_published_networks_have_as_many_tensors_as_the_originals(size: int, keys: int, other: dict) -> None:
    table = original.names(families.settings("improved", outputs=2, **other), (size, size, 3))
    leaves = [leaf for group in table.values() for leaf in group]
    assert len(table) == keys and len(leaves) == len(set(leaves))


def refused(flat: dict[str, np.ndarray], s: Settings = CONDITIONAL, size: tuple[int, ...] = (8, 12, 3)) -> str:
    with pytest.raises(UserError) as caught:
        original.from_original(flat, s, size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "key", "changes"),
    [
        ("width: 32 in the weights, 64", "time_embed.0.weight has the shape (128, 32), not (256, 64)", {"width": 64}),
        ("multipliers: (1.0, 2.0)", "input_blocks.5.0.in_layers.2.weight", {"multipliers": (1, 3)}),
        ("depth: 3 in the weights, 2", "input_blocks.3.0.op.weight of shape (32, 32, 3, 3) is missing", {"depth": 2}),
        ("attention_at: (4,)", "input_blocks.1.1.norm.weight of shape (32,) is missing", {"attention_at": (8, 4)}),
        (
            "variance: 'learned' in the weights, 'beta'",
            "out.2.weight has the shape (6, 32, 3, 3), not (3,",
            {"outputs": 1},
        ),
        ("num_classes: 10 in the weights, 0", "label_emb.weight of shape (10, 128) is not exp", {"encoders": ()}),
        ("scale_shift: True in the weights", "input_blocks.1.0.emb_layers.1.weight", {"scale_shift": False}),
        ("groups: 32 in all such weights, 16", "none, its tensors would fit", {"groups": 16}),
        ("model.time_input and schedule.kind: 'improved'", "none, its tensors would fit", {"embedding": "ddpm"}),
    ],
)
def test_refusal_names_the_field_and_the_first_key_that_differs(field: str, key: str, changes: dict) -> None:
    message = refused(state_dict("conditional"), replace(CONDITIONAL, **changes))
    assert field in message and f"the first key that differs: {key}" in message


def test_other_channels_are_refused() -> None:
    message = refused(state_dict("conditional"), size=(8, 12, 1))
    assert "data.shape: 3 in the weights, 1 in the config" in message and "input_blocks.0.0.weight" in message


def test_every_tensor_is_consumed_once() -> None:
    flat = state_dict("conditional")
    lacking = {k: v for k, v in flat.items() if k != "middle_block.1.qkv.bias"}
    assert "middle_block.1.qkv.bias of shape (192,) is missing" in refused(lacking)
    assert "betas of shape (4,) is not expected" in refused(flat | {"betas": np.zeros(4, np.float32)})
    assert "no usable leaf input_blocks.0.0.weight" in refused({"conv.weight": np.zeros((3, 3), np.float32)})
