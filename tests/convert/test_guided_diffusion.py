"""guided-diffusion's numbers at random parameters (goldens/README.md), both orders of q, k and v, and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.convert.openai_recipe import Goldens
from tests.convert.test_formats import pt
from vdm_jax import config as configs
from vdm_jax import methods, weights
from vdm_jax.convert import guided_diffusion as original
from vdm_jax.convert import improved_diffusion, unet_blocks, unet_tables
from vdm_jax.diffusion.process import Noise
from vdm_jax.errors import UserError
from vdm_jax.networks import families
from vdm_jax.networks.classifier import Classifier
from vdm_jax.networks.encoders import ClassEmbedding
from vdm_jax.networks.families import Settings

golden = Goldens("guided_diffusion.npz")
shape, state_dict = golden.shape, golden.state_dict
CLASSES = 10
HALF = families.settings("adm", width=64, multipliers=(0.5, 1), depth=1, attention_at=(4,), head_channels=32)
CONDITIONAL = replace(HALF, encoders=(ClassEmbedding("label", CLASSES),))
FOUR_HEADS = families.settings(
    "adm", width=32, multipliers=(1, 2, 2), depth=3, attention_at=(8, 4), heads=4, head_channels=0
)
UPSAMPLER = families.settings(
    "adm",
    width=32,
    multipliers=(1, 1),
    depth=1,
    attention_at=(4,),
    heads=2,
    head_channels=0,
    extra_channels=3,
    num_classes=CLASSES,
)
# settings, order of q, k and v, classes of a classifier
CASES: dict[str, tuple[Settings, str, int]] = {
    "conditional_legacy": (CONDITIONAL, "legacy", 0),
    "conditional_new": (CONDITIONAL, "new", 0),
    "unconditional": (FOUR_HEADS, "legacy", 0),
    "upsampler": (UPSAMPLER, "legacy", 0),
    "classifier": (replace(HALF, outputs=1), "legacy", CLASSES),
}


def converted(name: str, **changes: dict[str, np.ndarray] | str) -> dict:
    s, order, classes = CASES[name]
    given = {"flat": state_dict(name), "order": order} | changes
    return original.from_original(given["flat"], s, shape(name), given["order"], classes)


@cache
def classify(epsilon: float) -> Callable:
    """(params, z, t, labels) → (logits, ∇_z log p(label | z_t)), in float64."""
    net = Classifier(replace(CASES["classifier"][0], epsilon=epsilon, dtype=jnp.float64), CLASSES)

    def of_label(z: jax.Array, params: dict, t: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        with jax.numpy_dtype_promotion("standard"):  # the frequencies are those of the original, in float32
            logits = net.apply({"params": params}, z, t)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).sum(), logits

    @jax.jit
    def both(*args: jax.Array) -> tuple[jax.Array, jax.Array]:
        params, z, *rest = jax.tree.map(lambda a: a.astype(jnp.float64), args[:-1])
        gradient, logits = jax.grad(of_label, has_aux=True)(z, params, *rest, args[-1])
        return logits, gradient

    return both


def classifier_errors(params: dict, epsilon: float = 1e-5) -> tuple[float, float]:
    """Of the logits over 1e-5, of the gradient over 1e-7."""
    g = golden("classifier")
    with jax.enable_x64(True):
        logits, gradient = jax.device_get(classify(epsilon)(params, g["z"], g["t"], g["labels"]))
    return np.abs(logits - g["out"]).max() / 1e-5, np.abs(gradient - g["gradient"]).max() / 1e-7


UNETS = [pytest.param(name, marks=pytest.mark.slow if name == "unconditional" else ()) for name in list(CASES)[:-1]]


@pytest.mark.parametrize("name", UNETS)
def test_network_gives_the_output_of_the_original(name: str) -> None:
    expected = golden(name)["out"]
    assert np.abs(expected).max() > 1 and np.abs(expected[0] - expected[1]).max() > 0.5
    assert golden.error(name, converted(name), CASES[name][0]) < 1


def test_classifier_gives_the_logits_and_the_guidance_of_the_original() -> None:
    g = golden("classifier")
    assert np.abs(g["out"]).max() > 1 and np.abs(g["gradient"]).max() > 0.1
    assert max(classifier_errors(converted("classifier"))) < 1


def edited(name: str, part: str, edit: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    return {key: edit(leaf) if part in key else leaf for key, leaf in state_dict(name).items()}


def swap_halves(a: np.ndarray) -> np.ndarray:
    return np.concatenate(np.split(a, 2)[::-1])


@pytest.mark.parametrize(("name", "wrong"), [("conditional_legacy", "new"), ("conditional_new", "legacy")])
def test_the_other_order_of_q_k_and_v_loads_and_gives_another_function(name: str, wrong: str) -> None:
    """Why nobody may guess it: not a key differs, and the output is wrong by a tenth of itself and more."""
    assert golden.error(name, converted(name, order=wrong), CONDITIONAL) * 1e-5 > 0.1


def test_goldens_notice_a_mistake() -> None:
    mistaken = converted("conditional_legacy", flat=edited("conditional_legacy", "emb_layers", swap_halves))
    assert golden.error("conditional_legacy", mistaken, CONDITIONAL) > 1e3
    assert classifier_errors(converted("classifier", order="new"))[1] > 1e3
    swapped = converted("classifier", flat=edited("classifier", "emb_layers", swap_halves))
    assert min(classifier_errors(swapped)) > 1e3
    # pooling is [q | k | v] of all heads, whatever the blocks are
    by_head = lambda a: a.reshape(3, 2, -1, *a.shape[1:]).swapaxes(0, 1).reshape(a.shape)
    assert min(classifier_errors(converted("classifier", flat=edited("classifier", "qkv_proj", by_head)))) > 1e3


@pytest.mark.slow
def test_goldens_notice_another_epsilon_of_the_norms() -> None:
    assert golden.error("conditional_legacy", converted("conditional_legacy"), replace(CONDITIONAL, epsilon=1e-6)) > 3
    assert min(classifier_errors(converted("classifier"), epsilon=1e-6)) > 1


@pytest.mark.parametrize("name", CASES)
def test_round_trip_is_bit_exact(name: str) -> None:
    (s, order, classes), flat = CASES[name], state_dict(name)
    back = original.to_original(converted(name), s, shape(name), order, classes)
    assert list(back) == list(flat)  # in the original's order
    for key, leaf in flat.items():
        assert back[key].tobytes() == leaf.tobytes(), key
        assert (back[key].shape, back[key].dtype) == (leaf.shape, leaf.dtype), key


@pytest.mark.parametrize("name", CASES)
def test_tensors_tell_the_settings(name: str) -> None:
    s, _, classes = CASES[name]
    found = improved_diffusion.describe(state_dict(name), s, shape(name))
    asked = {
        "inputs": 3 + s.extra_channels,
        "attends": s.attends(shape(name)[0]),
        "num_classes": classes or s.num_classes,
    }
    assert found == {field: asked[field] if field in asked else getattr(s, field) for field in found}


ADM = partial(families.settings, "adm")
LARGE = (1, 1, 2, 2, 4, 4)


FOUR = {"heads": 4, "head_channels": 0}
# Pixels, parameters, tensors, classes of a classifier, settings; quick ones first.
PUBLISHED = [
    (64, 295_904_454, 541, 0, ADM(width=192, depth=3, multipliers=(1, 2, 3, 4), num_classes=1000)),
    (256, 54_096_360, 249, 1000, ADM(width=128, multipliers=LARGE)),
    (512, 558_997_638, 645, 0, ADM(width=256, multipliers=(0.5, *LARGE), num_classes=1000)),
    (128, 421_529_606, 493, 0, ADM(width=256, multipliers=(1, 1, 2, 3, 4), **FOUR, num_classes=1000)),
    (256, 553_838_086, 567, 0, ADM(width=256, multipliers=LARGE, num_classes=1000)),
    (256, 552_814_086, 566, 0, ADM(width=256, multipliers=LARGE)),
    (256, 311_795_910, 567, 0, ADM(width=192, multipliers=LARGE, **FOUR, num_classes=1000, extra_channels=3)),
    (
        512,
        308_835_270,
        537,
        0,
        ADM(width=192, multipliers=LARGE, attention_at=(32, 16), num_classes=1000, extra_channels=3),
    ),
    (
        256,
        279_792_390,
        457,
        0,
        families.settings(
            "improved", width=192, depth=2, multipliers=LARGE, num_classes=1000, outputs=2, extra_channels=3
        ),
    ),
    (64, 65_438_568, 307, 1000, ADM(width=128, depth=4, multipliers=(1, 2, 3, 4))),
    (128, 42_568_040, 221, 1000, ADM(width=128, multipliers=(1, 1, 2, 3, 4))),
    (512, 54_448_360, 281, 1000, ADM(width=128, multipliers=(0.5, *LARGE))),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "parameters", "keys", "classes", "s"),
    [pytest.param(*row, marks=[pytest.mark.slow] * (k > 1), id=f"{row[1]:,}") for k, row in enumerate(PUBLISHED)],
)
def test_published_networks_are_as_large_as_the_originals(
    size: int, parameters: int, keys: int, classes: int, s: Settings
) -> None:
    shape = (size, size, 3)
    table = improved_diffusion.names(s, shape, improved_diffusion.Form(classes))
    leaves = [leaf for group in table.values() for leaf in group]
    shapes = unet_blocks.shapes(s, shape, classes)
    assert len(table) == keys and sorted(leaves) == sorted(shapes)
    assert sum(map(math.prod, shapes.values())) == parameters


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ("adm_imagenet64.py", 295_904_454),
        ("adm_imagenet64.py:classifier", 65_438_568),
        ("adm_imagenet128.py", 421_529_606),
        ("adm_imagenet128.py:classifier", 42_568_040),
        ("adm_imagenet256.py", 553_838_086),
        ("adm_imagenet256.py:uncond", 552_814_086),
        ("adm_imagenet256.py:lsun", 552_814_086),
        ("adm_imagenet256.py:classifier", 54_096_360),
        ("adm_imagenet512.py", 558_997_638),
        ("adm_imagenet512.py:classifier", 54_448_360),
        ("adm_imagenet256_upsampler.py", 311_795_910),
        ("adm_imagenet256_upsampler.py:improved", 279_792_390),
        ("adm_imagenet512_upsampler.py", 308_835_270),
    ],
)
def test_configs_build_the_published_networks_and_know_their_order(config: str, parameters: int) -> None:
    made = configs.load(f"configs/{config}")
    s = unet_tables.settings_of(made)
    size, _, _, classes, published = next(row for row in PUBLISHED if row[1] == parameters)
    bare = lambda s: replace(s, dropout_rate=0.0, outputs=2, encoders=())
    assert bare(s) == bare(published) and tuple(made.data.shape) == (size, size, 3)
    assert (s.num_classes, s.extra_channels) == (published.num_classes, published.extra_channels)
    assert made.model.num_classes == (classes or published.num_classes)
    assert (made.model.get("qkv_order") == "new") == (config == "adm_imagenet64.py")
    original.check_order(s, made.model.get("qkv_order", "legacy"))


def refused(name: str, order: str = "legacy", classes: int | None = None, **changes: object) -> str:
    s, _, count = CASES[name]
    with pytest.raises(UserError) as caught:
        count = count if classes is None else classes
        original.from_original(state_dict(name), replace(s, **changes), shape(name), order, count)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "field", "key", "changes"),
    [
        ("conditional_legacy", "width: 64 in the weights, 128", "time_embed.0.weight has the shape", {"width": 128}),
        ("conditional_legacy", "depth: 1 in the weights, 2", "input_blocks.3.0.in_layers.2.weight", {"depth": 2}),
        ("conditional_legacy", "multipliers: (0.5, 1.0)", "input_blocks.0.0.weight has the", {"multipliers": (1, 1)}),
        ("conditional_legacy", "resample_blocks: 'block' in", "input_blocks.2.0.op.weight", {"resample": "conv"}),
        ("conditional_legacy", "num_classes: 10 in", "label_emb.weight of shape (10, 256)", {"encoders": ()}),
        (
            "upsampler",
            "model.low_resolution, channels of the input: 6 in the weights, 3",
            "input_blocks.0.0.weight has the shape",
            {"encoders": CONDITIONAL.encoders},
        ),
        ("classifier", "depth: 1 in the weights, 2", "input_blocks.3.0", {"depth": 2}),
        ("classifier", "attention_at: (4,) in the weights, (8, 4)", "input_blocks.1.1", {"attention_at": (8, 4)}),
        ("classifier", "num_classes: 10 in the weights, 7", "out.2.c_proj.weight has the shape", {"classes": 7}),
    ],
)
def test_refusal_names_the_field_and_the_first_key_that_differs(name: str, field: str, key: str, changes: dict) -> None:
    message = refused(name, **changes)
    assert field in message and f"the first key that differs: {key}" in message


def test_a_classifier_is_no_diffusion_model() -> None:
    assert "the weights are a classifier's, and a U-Net's are required" in refused("classifier", classes=0)
    assert "the weights are a U-Net's, and a classifier's" in refused("unconditional", classes=CLASSES)


def test_the_order_is_never_guessed() -> None:
    assert "model.qkv_order='unknown': no tensor" in refused("conditional_legacy", "unknown")
    small, large = ADM(width=192, depth=3, multipliers=(1.0, 2.0, 3.0, 4.0)), ADM(width=256, multipliers=LARGE)
    for s, right, wrong in ((small, "new", "legacy"), (large, "legacy", "new")):
        original.check_order(s, right)
        with pytest.raises(UserError, match=f"in the order '{right}' and would produce noise"):
            original.check_order(s, wrong)
    for order in original.ORDERS:  # nothing released has these sizes
        original.check_order(CONDITIONAL, order)


@pytest.mark.slow
def test_a_file_of_an_upsampler_is_the_original_from_the_command_line_s_config_on(tmp_path: Path) -> None:
    """Read by a config, with a label and a smaller image, the method's network gives the original's output."""
    g, made = golden("upsampler"), configs.load("configs/adm_imagenet256_upsampler.py")
    made.data.shape, made.model.low_resolution = shape("upsampler"), g["low"].shape[1]
    made.model.width, made.model.multipliers, made.model.depth = 32, (1.0, 1.0), 1
    made.model.attention_at, made.model.heads, made.model.num_classes = (4,), 2, CLASSES
    (tmp_path / "upsampler.pt").write_bytes(pt(state_dict("upsampler")))
    params, _ = weights.load(str(tmp_path / "upsampler.pt"), made, methods.build(made))
    cond = {"label": g["labels"], "low_resolution": g["low"]}
    level = Noise(gamma=g["t"], alpha=g["t"], sigma=g["t"], t=g["t"])
    denoise = methods.build(made).denoise
    assert denoise is not None
    out = np.asarray(jax.jit(denoise(params))(g["z"], level, cond))
    np.testing.assert_allclose(out, g["out"], atol=1e-5 * max(1.0, np.abs(g["out"]).max()))
    configs.choose(made, {"model.low_resolution": 0})
    with pytest.raises(UserError, match=r"model\.low_resolution, channels of the input: 6 in the weights, 3 in the"):
        weights.load(str(tmp_path / "upsampler.pt"), made, methods.build(made))
