"""CLIP as a method: its loss, statistics, tokens, evaluators and what it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from tests.training import runs
from vdm_jax import config as configs
from vdm_jax import methods
from vdm_jax.conditioning import text as text_conditions
from vdm_jax.conditioning.text import PADDING, SameCaption, Text
from vdm_jax.contrastive import infonce
from vdm_jax.core.method import STATE, Context
from vdm_jax.data.sources import Arrays
from vdm_jax.errors import UserError
from vdm_jax.keys import example_keys
from vdm_jax.methods import clip
from vdm_jax.optimizer import decay_mask
from vdm_jax.training.gradients import accumulated

SIZE = 8


def batch_of(config: ConfigDict, count: int = SIZE) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    words = ["red", "blue", "green", "small"]  # few tokens in the tokenizer of `runs`
    captions = np.array([" ".join(rng.choice(words, 1 + k % 3)) for k in range(count)], object)
    method = methods.build(config)
    cond = {c.name: c.of_records({"caption": captions}) for c in method.conditions}
    return {"x": rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8), "cond": cond}


def context(count: int = SIZE) -> Context:
    index = jnp.arange(count)
    return Context(example_keys(jax.random.key(1), index), jax.random.key(2), index, count)


@pytest.mark.slow
def test_accumulation_through_embeddings_has_the_gradients_of_the_batch() -> None:
    """GradCache, in float32; agreement to 1e-10 in float64 is tested in tests/training."""
    method, config = methods.build(runs.clip()), runs.clip()
    (phase,) = method.phases
    params, batch = jax.jit(method.init)(jax.random.key(0)), batch_of(config)
    whole, parts = (jax.jit(lambda n=n: accumulated(phase, params, (), batch, context(), n))() for n in (1, 4))
    np.testing.assert_allclose(parts.per_example, whole.per_example, rtol=1e-5)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(parts.grads), jax.tree.leaves(whole.grads), strict=True
    ):
        if jax.tree_util.keystr(path).endswith("['k']['bias']"):
            continue  # its gradient is 0, since softmax does not depend on it
        scale = float(jnp.max(jnp.abs(b)))
        assert float(jnp.max(jnp.abs(a - b))) <= 2e-5 * scale + 1e-8, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_the_loss_is_that_of_the_embeddings() -> None:
    config = runs.clip()
    made, batch = clip.model(config), batch_of(config)
    params = jax.jit(made.init)(jax.random.key(0))
    loss, aux = jax.jit(lambda: made.coupling.whole(params, (), batch, context()))()
    text = jax.jit(made.text_states)(params, batch["cond"]["text"]).embedding
    image = jax.jit(made.image_embeddings)(params, made.encode(batch["x"]))
    expected = infonce.symmetric(
        image,
        text / jnp.linalg.norm(text, axis=-1, keepdims=True),
        params["network"]["log_scale"],
        jnp.arange(SIZE),
        same=batch["cond"]["same_caption"],
    )
    np.testing.assert_allclose(loss, expected.loss, rtol=1e-5)
    np.testing.assert_array_equal(aux["image_accuracy"], expected.image_accuracy)


@pytest.mark.slow
def test_what_stands_behind_the_end_does_not_change_an_embedding() -> None:
    """Not the padding, and not how much of it there is."""
    config = runs.clip()
    made = clip.model(config)
    params, ids = jax.jit(made.init)(jax.random.key(0)), batch_of(config)["cond"]["text"]
    encode = jax.jit(made.text_states)
    found = encode(params, ids)
    np.testing.assert_array_equal(found.tokens.mask, ids >= 0)
    length = int(np.sum(ids >= 0, axis=1).max())
    assert length < ids.shape[1]
    shorter = encode(params, ids[:, :length])
    np.testing.assert_allclose(found.embedding, shorter.embedding, atol=1e-5)
    network = dict(params["network"])
    tokens = network["text"]["embedding"]["tokens"].at[0].add(1.0)  # the row that stands for padding
    network["text"] = {**network["text"], "embedding": {**network["text"]["embedding"], "tokens": tokens}}
    np.testing.assert_allclose(encode({"network": network}, ids).embedding, found.embedding, atol=1e-5)


def test_the_mean_of_embeddings_does_not_know_the_order_of_tokens_and_the_transformer_does() -> None:
    for depth, equal in ((0, True), (1, False)):
        config = configs.choose(runs.clip(), {"model.text_depth": depth})
        made = clip.model(config)
        params, ids = jax.jit(made.init)(jax.random.key(0)), batch_of(config)["cond"]["text"]
        turned, length = ids.copy(), int(np.sum(ids[2] >= 0))
        turned[2, 1 : length - 1] = ids[2, 1 : length - 1][::-1]
        assert not np.array_equal(turned, ids)
        encode = jax.jit(made.text_states)
        found = np.abs(encode(params, ids).embedding - encode(params, turned).embedding).max()
        assert (found < 1e-5) == equal


@pytest.mark.slow
def test_statistics_of_a_resnet_are_those_of_the_batch_and_move_by_a_tenth() -> None:
    config = runs.clip_resnet()
    method, made = methods.build(config), clip.model(config)
    params, batch = jax.jit(method.init)(jax.random.key(0)), batch_of(config)
    _, aux = jax.jit(lambda: made.loss(params, (), batch, context()))()
    moved = method.phases[0].project(params, aux[STATE])["batch_stats"]["image"]["bn1"]
    kernel = params["network"]["image"]["stem1"]["kernel"]
    pixels = (made.encode(batch["x"]) * 0.5 + 0.5 - np.array(made.net.settings.mean)) / np.array(made.net.settings.std)
    stem = jax.lax.conv_general_dilated(
        pixels.astype(np.float32), kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(moved["mean"], 0.1 * stem.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * stem.var((0, 1, 2)), rtol=1e-3)


def test_weight_decay_leaves_out_gains_biases_the_class_token_and_the_temperature() -> None:
    params = jax.jit(methods.build(runs.clip()).init)(jax.random.key(0))
    mask = flatten_dict(decay_mask(params["network"], clip.DECAYED), sep="/")
    leaves = {path.rpartition("/")[2] for path, decayed in mask.items() if decayed}
    assert leaves == {"kernel", "tokens", "positions"}
    kept = {path.rpartition("/")[2] for path, decayed in mask.items() if not decayed}
    assert kept == {"bias", "scale", "class_token", "log_scale"}


def test_the_temperature_is_projected_after_the_update() -> None:
    params = jax.jit(methods.build(runs.clip()).init)(jax.random.key(0))
    network = {**params["network"], "log_scale": jnp.float32(9.0)}
    after = clip.project({"network": network}, ())
    assert float(after["network"]["log_scale"]) == pytest.approx(np.log(100))


def test_a_noised_clip_sees_the_image_alone_without_noise_and_nothing_of_it_at_the_end() -> None:
    made = clip.model(runs.noised_clip())
    assert made.table is not None
    keys, images = example_keys(jax.random.key(1), jnp.arange(4)), jnp.ones((4, 32, 32, 3))
    level = made.table.level(jnp.array([0, 10, 20, 49]))
    z = made.noised(images, keys, jnp.array([0, 10, 20, 49]))
    np.testing.assert_allclose(z.mean((1, 2, 3)), level.alpha, atol=4 * float(jnp.max(level.sigma)) / 55)
    np.testing.assert_allclose(z.std((1, 2, 3)), level.sigma, rtol=0.05)


# ---------------------------------------------------------------- text


def test_ids_end_where_the_caption_ends() -> None:
    condition = text_conditions.from_config(runs.clip())
    assert condition is not None
    ids = condition.ids(["a small red circle", ""])
    tokenizer = condition.tokenizer
    assert ids[1].tolist() == [tokenizer.start, tokenizer.end] + [PADDING] * 10
    row = ids[0][ids[0] != PADDING]
    assert row[0] == tokenizer.start and row[-1] == tokenizer.end and len(row) > 3


def test_captions_of_one_scene_are_the_same_and_others_are_not() -> None:
    scenes = SameCaption().of_records({"scene": np.array([3, 3, 4], np.int32), "caption": np.array(["a", "b", "c"])})
    assert scenes.tolist() == [3, 3, 4]
    hashes = SameCaption().of_records({"caption": np.array(["a cat", "a dog", "a cat"], object)})
    assert hashes.dtype == np.int32 and hashes[0] == hashes[2] != hashes[1]


def test_a_table_with_too_few_rows_is_refused() -> None:
    condition = Text(context=8, vocabulary=260, kind="bpe", path=runs.tokenizer())
    with pytest.raises(UserError, match=r"has 2\d\d tokens, more than the 260 rows of config\.model\.vocabulary"):
        condition.ids(["a"])


def test_a_missing_tokenizer_is_one_sentence() -> None:
    condition = Text(context=8, vocabulary=49408, kind="clip", path="/nowhere/bpe.txt.gz")
    with pytest.raises(UserError, match=r"bpe_simple_vocab_16e6.txt.gz of github.com/openai/CLIP"):
        condition.ids(["a"])


# ---------------------------------------------------------------- configs


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data.batch_size": 1}, "config.data.batch_size=1 has no negatives"),
        ({"model.patch": 5}, "config.model.patch=5 must divide the 32 pixels"),
        ({"model.heads": 3}, "config.model.heads=3 must divide config.model.width=16"),
        ({"model.text_heads": 3}, "config.model.text_heads=3 must divide config.model.text_width=16"),
        ({"data.shape": (32, 16, 3)}, "takes square images of discrete values"),
        ({"data.vocabulary": 0}, "takes square images of discrete values"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], sentence: str) -> None:
    config = configs.choose(runs.clip(), changes)
    with pytest.raises(UserError, match=re.escape(sentence)):
        configs.check(config)


def test_accumulation_of_a_resnet_is_refused() -> None:
    config = runs.clip_resnet()
    config.training.accumulate = 2
    with pytest.raises(UserError, match=r"accumulate=2 would split the batch, but the loss of 'clip' compares all"):
        runs.functions(config, methods.build(config), runs.mesh_of(1))


def test_data_without_captions_are_refused() -> None:
    from vdm_jax import conditioning, data

    dataset = data.Dataset(Arrays(np.zeros((4, 32, 32, 3), np.uint8)), "cifar10", "v", "train", (32, 32, 3), 256)
    requirements = conditioning.data_requirements(methods.build(runs.clip()).conditions)
    with pytest.raises(UserError, match=r"cifar10 \(v\) has no captions"):
        data.check(dataset, (32, 32, 3), 256, **requirements)


# ---------------------------------------------------------------- evaluators


def test_retrieval_of_embeddings_that_agree_is_complete() -> None:
    config = configs.choose(runs.clip(), {"evaluation.candidates": 4, "evaluation.draws": 3})
    (evaluator,) = methods.build(config).evaluators
    eye = np.eye(SIZE, dtype=np.float32)
    values = {"image": eye[:, None], "text": eye, "same": np.arange(SIZE), "log_scale": np.full(SIZE, 2.0)}
    found = evaluator.summarize(values)  # type: ignore[union-attr]
    assert found["image_to_text_at_1"] == found["text_to_image_at_1"] == 1.0
    assert found["candidates"] == 4 and found["draws"] == 3 and found["chance_at_1"] == 0.25


@pytest.mark.slow
def test_a_noised_clip_is_measured_by_level() -> None:
    config = configs.choose(runs.noised_clip(), {"evaluation.levels": 3, "evaluation.candidates": 4})
    method = methods.build(config)
    (evaluator,) = method.evaluators
    params, batch = jax.jit(method.init)(jax.random.key(0)), batch_of(config)
    outputs = jax.jit(evaluator.outputs)(params, batch, context().keys)  # type: ignore[union-attr]
    assert outputs["image"].shape == (SIZE, 3, 8)
    np.testing.assert_allclose(jnp.linalg.norm(outputs["image"], axis=-1), np.ones((SIZE, 3)), rtol=1e-5)
    found = evaluator.summarize({k: np.asarray(v) for k, v in outputs.items()})  # type: ignore[union-attr]
    assert [row["t"] for row in found["by_level"]] == pytest.approx([1 / 50, 25 / 50, 1.0])


def test_zero_shot_accuracy_is_that_of_the_nearest_prompt(tmp_path: Path) -> None:
    """Against embeddings computed one by one."""
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"classes": ["red", "blue circle", "green"], "templates": ["a {}", "there is a {}"]}))
    config = configs.choose(runs.clip(), {"evaluation.task": "zero_shot", "evaluation.prompts": str(path)})
    method, made = methods.build(config), clip.model(config)
    assert method.phases == ()
    (evaluator,) = method.evaluators
    params, images = jax.jit(method.init)(jax.random.key(0)), batch_of(runs.clip())["x"]
    label = np.arange(SIZE, dtype=np.int32) % 3
    prepared = jax.jit(evaluator.prepare)(params)  # type: ignore[union-attr]
    batch = {"x": images, "cond": {"label": label}}
    outputs = jax.jit(evaluator.outputs)({**params, "prepared": prepared}, batch, context().keys)  # type: ignore[union-attr]
    condition = text_conditions.from_config(config)
    assert condition is not None
    rows, encode = [], jax.jit(made.text_states)
    for name in ("red", "blue circle", "green"):
        each = encode(params, condition.ids([f"a {name}", f"there is a {name}"])).embedding
        mean = np.mean(each / np.linalg.norm(each, axis=-1, keepdims=True), axis=0)
        rows.append(mean / np.linalg.norm(mean))
    cosines = np.asarray(jax.jit(made.image_embeddings)(params, made.encode(images))) @ np.array(rows).T
    expected = [int(np.sum(row >= row[own])) - 1 for row, own in zip(cosines, label, strict=True)]
    assert outputs["rank"].tolist() == expected
