"""Published CLIPs' numbers at random parameters (goldens/README.md), both ways of conversion, sizes and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.convert.clip_recipe import golden, images, state_dict, texts
from tests.convert.torch_files import pt
from vdm_jax.convert import clip as original
from vdm_jax.convert import state_dict as files
from vdm_jax.convert.clip_names import theirs
from vdm_jax.errors import UserError
from vdm_jax.networks.clip import CLIP, ResNet, Settings, Text, ViT, published
from vdm_jax.networks.clip.model import normalized

LENGTHS = (4, 11, 7)
TEXT = Text(64, 2, 2, vocabulary=97, context=11)
PICTURE = Settings(24, ViT(32, 8, 128, 2, 2), TEXT)
CASES = {
    "vit": (PICTURE, "openai"),
    "resnet": (replace(PICTURE, image=ResNet(64, 8, (2, 1, 3, 1), 4)), "openai"),
    "open_clip": (replace(PICTURE, gelu="erf"), "openai"),
    "hugging_face": (PICTURE, "hugging_face"),
    "glide": (
        Settings(24, ViT(16, 4, 64, 2, 2, levels=10), Text(32, 2, 2, 97, 11), gelu="erf", key_bias=False),
        "glide",
    ),
}


@cache
def compiled(s: Settings) -> Callable[..., dict[str, jax.Array]]:
    def both(variables: dict, x: jax.Array, ids: jax.Array, level: jax.Array | None, lengths: jax.Array | None) -> dict:
        run = lambda method, *args: CLIP(s).apply(variables, *args, method=method)
        image, text = run(CLIP.encode_image, x, level), run(CLIP.encode_text, ids, lengths)
        cosines = normalized(image) @ normalized(text.embedding).T
        logits = jax.numpy.exp(variables["params"]["log_scale"]) * cosines
        return {"image": image, "text": text.embedding, "states": text.tokens.states, "logits": logits}

    return jax.jit(both)


def errors(case: str, s: Settings | None = None, flat: dict[str, np.ndarray] | None = None) -> dict[str, float]:
    """By output, the largest difference from the original over the 1e-5 · max(1, |output|) that are allowed."""
    right, g = CASES[case][0], golden(case)
    variables = original.from_original(state_dict(case) if flat is None else flat, right)
    ids, noised = texts(case, 97, 11, LENGTHS), case == "glide"
    if noised:
        ids[0, 1] = 96  # so that the largest id does not tell the end
    level, lengths = (np.array([0, 7, 9]), np.array(LENGTHS)) if noised else (None, None)
    out = jax.device_get(compiled(s or right)(variables, images(case, right.image.size), ids, level, lengths))
    kept = {name: g[name] for name in out if name in g}
    return {n: np.abs(out[n] - a).max() / (1e-5 * max(1.0, np.abs(a).max())) for n, a in kept.items()}


@pytest.mark.parametrize("case", CASES)
def test_towers_give_the_embeddings_of_the_original(case: str) -> None:
    found = errors(case)
    assert found.keys() >= {"image", "text"} and max(found.values()) < 1, found
    rows = golden(case)["image"]
    assert np.abs(rows[0] - rows[1]).max() > 0.1  # the original tells images apart


def test_goldens_notice_the_other_gelu_a_lost_mask_and_another_epsilon() -> None:
    for case, gelu in (("vit", "erf"), ("open_clip", "quick")):
        assert min(errors(case, replace(CASES[case][0], gelu=gelu)).values()) > 100
    assert min(errors("vit", replace(PICTURE, epsilon=1e-4)).values()) > 1
    assert errors("vit", replace(PICTURE, image=replace(PICTURE.image, heads=1)))["image"] > 1e3
    by_heads = lambda a: a.reshape(3, 2, -1, *a.shape[1:]).swapaxes(0, 1).reshape(a.shape)
    mixed = {name: by_heads(a) if "in_proj" in name else a for name, a in state_dict("vit").items()}
    assert min(errors("vit", flat=mixed).values()) > 1e3


def test_goldens_notice_a_text_tower_that_sees_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    seeing = replace(PICTURE, unroll=2)  # so that nothing compiled before is taken
    of = Settings.transformer_of
    monkeypatch.setattr(Settings, "transformer_of", lambda s, tower: replace(of(s, tower), causal=False))
    found = errors("vit", seeing)
    assert found["text"] > 1e3 and found["states"] > 1e3 and found["image"] < 1


def test_goldens_notice_batch_statistics_in_the_wrong_place() -> None:
    swapped = {"running_mean": "running_var", "running_var": "running_mean"}
    mixed = {}
    for name, leaf in state_dict("resnet").items():
        start, _, last = name.rpartition(".")
        mixed[name] = state_dict("resnet")[f"{start}.{swapped[last]}"] if last in swapped else leaf
    mixed = {name: np.abs(leaf) if name.endswith("running_var") else leaf for name, leaf in mixed.items()}
    assert errors("resnet", flat=mixed)["image"] > 1e3


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("case", CASES)
def test_round_trip_is_bit_exact(case: str, dtype: type) -> None:
    (s, layout), flat = CASES[case], {name: leaf.astype(dtype) for name, leaf in state_dict(case).items()}
    back = original.to_original(original.from_original(flat, s), s, layout)
    assert back.keys() == flat.keys()
    for name, leaf in flat.items():
        assert back[name].tobytes() == leaf.tobytes(), name
        assert (back[name].shape, back[name].dtype) == (leaf.shape, leaf.dtype), name


@pytest.mark.parametrize("case", CASES)
def test_tensors_tell_the_sizes(case: str) -> None:
    s, found = CASES[case][0], original.describe(state_dict(case), CASES[case][0].gelu)
    heads = lambda tower: max(tower.width // 64, 1) if not isinstance(tower, ResNet) else tower.heads
    assert found == replace(s, image=replace(s.image, heads=heads(s.image)), text=replace(s.text, heads=heads(s.text)))


def safetensors(flat: dict[str, np.ndarray]) -> bytes:
    return pytest.importorskip("safetensors.numpy").save({name: np.array(a, order="C") for name, a in flat.items()})


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_file_in_half_precision_is_read_in_float32(tmp_path: Path, kind: str) -> None:
    """With the sizes that OpenAI's files carry and the counters of batch norms, which are no parameters."""
    half = {name: leaf.astype(np.float16) for name, leaf in state_dict("resnet").items()}
    sizes = {"input_resolution": np.array(64), "visual.bn1.num_batches_tracked": np.array(7)}
    write = pt if kind == "pt" else safetensors
    (tmp_path / "weights").write_bytes(write({f"module.{name}": leaf for name, leaf in (half | sizes).items()}))
    got = original.load(str(tmp_path / "weights"), CASES["resnet"][0])
    expected = original.from_original(half, CASES["resnet"][0])
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b.astype(np.float32), strict=True)


def test_both_files_of_glide_are_read_as_one(tmp_path: Path) -> None:
    flat = state_dict("glide")
    for tower in ("image", "text"):
        part = {n.partition(".")[2]: leaf for n, leaf in flat.items() if n.startswith(tower)}
        (tmp_path / f"{tower}.pt").write_bytes(pt(part))
    got = original.read_glide(str(tmp_path / "image.pt"), str(tmp_path / "text.pt"))
    assert got.keys() == flat.keys()
    assert all(np.array_equal(got[name], leaf) for name, leaf in flat.items())
    made = original.from_original(got, CASES["glide"][0])
    assert made["params"]["log_scale"] == np.float32(np.log(100))


SCRIPT = Path(__file__).parent / "goldens" / "torch" / "clip_script.pt"


def test_an_archive_of_torchscript_is_read_as_tensors_alone() -> None:
    """Written by torch.jit from OpenAI's own classes, in half precision."""
    flat = original.read(str(SCRIPT))
    assert set(flat) == set(state_dict("script"))
    for name, leaf in state_dict("script").items():
        np.testing.assert_array_equal(flat[name], leaf.astype(np.float16), strict=True)
    assert "input_resolution" in files.read(str(SCRIPT))
    s = replace(original.describe(flat, "quick"), image=ViT(8, 4, 16, 1, 1))
    assert s == Settings(8, ViT(8, 4, 16, 1, 1), Text(16, 1, 1, vocabulary=11, context=5))
    tokens = original.load(str(SCRIPT), s)["params"]["text"]["embedding"]["tokens"]
    assert tokens.dtype == np.float32 and np.array_equal(tokens, flat["token_embedding.weight"])


# Parameters and tensors of the originals, counted by torch; a batch norm has a counter besides, which is dropped.
COUNTS = {
    "ViT-B/32": (151_277_313, 302),
    "RN50": (102_007_137, 489 - 55),
    "RN101": (119_688_033, 795 - 106),
    "RN50x4": (178_300_601, 669 - 85),
    "RN50x16": (290_979_217, 921 - 127),
    "RN50x64": (623_258_305, 1353 - 199),
    "ViT-B/16": (149_620_737, 302),
    "ViT-L/14": (427_616_513, 446),
    "ViT-L/14@336px": (427_944_193, 446),
    "GLIDE": (158_123_264 + 1, 373),  # the temperature is in no file
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (i > 1)) for i, n in enumerate(COUNTS)])
def test_published_networks_are_as_large_as_the_originals(name: str) -> None:
    s, shapes = published(name), original.shapes(published(name))
    parameters, tensors = COUNTS[name]
    assert sum(math.prod(size) for path, size in shapes.items() if path.startswith("params/")) == parameters
    layout = "glide" if name == "GLIDE" else "openai"
    assert (
        len({theirs(path, layout).name for path in shapes if layout == "openai" or "log_scale" not in path}) == tensors
    )
    width = s.image.width * (32 if isinstance(s.image, ResNet) else 1)
    assert (width / s.image.heads, s.text.width / s.text.heads) == (64, 64)


def refused(flat: dict[str, np.ndarray], s: Settings) -> str:
    with pytest.raises(UserError) as error:
        original.from_original(flat, s)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("case", "s", "words"),
    [
        ("vit", replace(PICTURE, embedding=32), "embedding: 24 in the weights, 32 in the settings"),
        ("vit", replace(PICTURE, image=ViT(32, 8, 128, 3, 2)), "image.depth: 2 in the weights, 3 in the settings"),
        ("vit", replace(PICTURE, image=ViT(64, 8, 128, 2, 2)), "image.size: 32 in the weights, 64 in the settings"),
        ("vit", replace(PICTURE, text=replace(TEXT, context=77)), "text.context: 11 in the weights, 77 in"),
        ("vit", CASES["resnet"][0], "image: a ViT in the weights, a ResNet in the settings"),
        ("resnet", PICTURE, "image: a ResNet in the weights, a ViT in the settings"),
        ("glide", replace(CASES["glide"][0], key_bias=True), "key_bias: False in the weights, True in the settings"),
    ],
)
def test_another_model_is_refused_with_the_field(case: str, s: Settings, words: str) -> None:
    assert words in refused(state_dict(case), s)


def test_missing_and_unknown_tensors_are_named() -> None:
    flat = dict(state_dict("vit"))
    taken = flat.pop("visual.ln_post.bias")
    assert "visual.ln_post.bias of shape (128,) is missing" in refused(flat, PICTURE)
    assert "extra of shape (128,) is not expected" in refused(state_dict("vit") | {"extra": taken}, PICTURE)
    del flat["ln_final.weight"], flat["token_embedding.weight"]
    assert "the weights lack token_embedding.weight" in refused(flat, PICTURE)
    assert "the weights are no CLIP's" in refused({"conv.weight": taken}, PICTURE)


def test_glide_has_no_place_for_a_resnet() -> None:
    s = CASES["resnet"][0]
    with pytest.raises(UserError, match="image tower: published weights of this layout have no image/"):
        original.to_original(original.from_original(state_dict("resnet"), s), s, "glide")
