"""CLIP's towers: where a text is read, what batch norms see and keep, how the parts start."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.networks.clip import CLIP, ModifiedResNet, ResNet, Settings, Text, TextTower, ViT, published, standardized
from vdm_jax.networks.clip.resnet import batch_norm
from vdm_jax.runtime import devices

TEXT = Text(16, 1, 2, vocabulary=11, context=6)
PICTURE = Settings(8, ViT(8, 4, 16, 1, 2), TEXT)
RESNET = replace(PICTURE, image=ResNet(32, 4, (1, 1, 2, 1), 4, momentum=0.75), dtype=jnp.float64)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
IDS = np.array([[9, 1, 2, 10, 0, 0], [9, 3, 10, 0, 0, 0], [9, 4, 5, 6, 7, 10], [9, 10, 0, 0, 0, 0]])


@pytest.mark.slow
def test_a_text_is_read_at_its_end_and_what_follows_changes_nothing(key: jax.Array) -> None:
    tower = TextTower(PICTURE)
    params = tower.init(key, IDS)
    embed = jax.jit(tower.apply)
    right = embed(params, IDS)
    padded = IDS.copy()
    padded[1, 3:] = 5
    other = embed(params, padded)
    np.testing.assert_array_equal(other.embedding, right.embedding)
    np.testing.assert_array_equal(right.tokens.mask, np.arange(6)[None] <= np.array([3, 2, 5, 1])[:, None])
    np.testing.assert_array_equal(embed(params, IDS, np.array([4, 3, 6, 2])).embedding, right.embedding)
    earlier = embed(params, IDS, np.array([3, 3, 6, 2])).embedding
    assert np.abs(earlier[0] - right.embedding[0]).max() > 0.1
    np.testing.assert_array_equal(earlier[1:], right.embedding[1:])
    kernel = params["params"]["proj"]["kernel"]
    np.testing.assert_allclose(right.tokens.states[0, 3] @ kernel, right.embedding[0], atol=1e-5)


@pytest.mark.slow
def test_embeddings_have_norm_one_and_the_scale_starts_at_one_over_0_07(key: jax.Array) -> None:
    out, _ = jax.jit(CLIP(PICTURE).init_with_output)(key, IMAGES, IDS)
    for rows in (out.image, out.text):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert math.isclose(float(out.log_scale), math.log(1 / 0.07), rel_tol=1e-6)


def test_pixels_are_standardized_from_the_scale_of_the_library() -> None:
    s = replace(PICTURE, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 0.125))
    out = standardized(jnp.asarray([[[[-1.0, 0.0, 1.0]]]]), s)
    np.testing.assert_allclose(out[0, 0, 0], [-1, 1, 8])
    one = published("ViT-B/32", mean=(0.5,) * 3, std=(0.5,) * 3)
    np.testing.assert_allclose(standardized(jnp.asarray(IMAGES), one), IMAGES, atol=2e-7)


@pytest.mark.slow
def test_a_noised_tower_reads_the_row_of_its_level(key: jax.Array) -> None:
    net = CLIP(replace(PICTURE, image=replace(PICTURE.image, levels=5)))
    levels = np.array([0, 3, 3, 1])
    params = net.init(key, IMAGES, IDS, levels)
    loss = lambda p: jnp.sum(net.apply(p, IMAGES, levels, method=CLIP.encode_image) ** 2)
    used = np.abs(jax.jit(jax.grad(loss))(params)["params"]["image"]["levels"]).max(1)
    assert (used[[0, 1, 3]] > 1e-4).all() and (used[[2, 4]] == 0).all()
    assert "class_token" not in params["params"]["image"]
    for tower, level in ((net, None), (CLIP(PICTURE), levels)):
        with pytest.raises(ValueError, match="a noised image tower takes the level of each image"):
            tower.apply(params, IMAGES, level, method=CLIP.encode_image)


def test_images_of_another_size_are_refused(key: jax.Array) -> None:
    with pytest.raises(ValueError, match=r"images of \(16, 8\) pixels; the tower takes 8"):
        CLIP(PICTURE).init(key, np.zeros((1, 16, 8, 3), np.float32), IDS)


def test_settings_that_make_no_sense_are_named() -> None:
    with pytest.raises(ValueError, match="patches of 3 pixels do not fill an image of 8"):
        ViT(8, 3, 16, 1, 2)
    with pytest.raises(ValueError, match="size=48 is no multiple of 32"):
        ResNet(48, 4, (1, 1, 1, 1), 4)
    with pytest.raises(ValueError, match="gelu='tanh' is unknown; take one of quick, erf"):
        replace(PICTURE, gelu="tanh")
    with pytest.raises(ValueError, match="no CLIP named 'ViT-H/14' was published; take one of RN50, "):
        published("ViT-H/14")


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By channel, over the global batch and the pixels."""
    return x.mean((0, 1, 2)), x.var((0, 1, 2))


@pytest.mark.parametrize("axis_name", [None, "data"])
def test_batch_norm_sees_the_global_batch_and_moves_its_statistics(axis_name: str | None) -> None:
    """Under pmap over two devices as in one piece; frozen, it takes the running ones and leaves them."""
    x = np.random.default_rng(1).normal(3, 2, (4, 5, 5, 3))
    mean, var = moments(x)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # Flax's norms mix float32 with the data
        train, frozen = (batch_norm(RESNET, train, axis_name, "bn") for train in (True, False))
        old = {"mean": jnp.asarray([1.0, 2, 3]), "var": jnp.asarray([1.0, 4, 9])}
        params = {"scale": jnp.asarray([1.0, 2, 3]), "bias": jnp.asarray([0.0, 1, 2])}
        run = lambda x: train.apply({"params": params, "batch_stats": old}, x, mutable="batch_stats")
        if axis_name is None:
            out, new = jax.jit(run)(x)
        else:
            out, new = jax.pmap(run, axis_name=axis_name)(x.reshape(2, 2, 5, 5, 3))
            out, new = out.reshape(x.shape), jax.tree.map(lambda a: a[1], new)
        still = frozen.apply({"params": params, "batch_stats": old}, x)
        out, new, still, old = jax.device_get((out, new, still, old))
    affine = lambda m, v: (x - m) / np.sqrt(v + 1e-5) * np.array([1, 2, 3]) + np.array([0, 1, 2])
    np.testing.assert_allclose(out, affine(mean, var), atol=1e-12)
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.75 * old["mean"] + 0.25 * mean, rtol=1e-12)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.75 * old["var"] + 0.25 * var, rtol=1e-12)
    np.testing.assert_allclose(still, affine(old["mean"], old["var"]), atol=1e-12)


def random_resnet(s: Settings, x: np.ndarray) -> Any:
    like = jax.eval_shape(ModifiedResNet(s).init, jax.random.key(0), x)
    rng = np.random.default_rng(2)
    values = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape), like)
    return {**values, "batch_stats": jax.tree.map(lambda a: 1 + np.abs(a), values["batch_stats"])}


@pytest.mark.slow
def test_a_resnet_trains_on_two_devices_as_on_one_and_with_its_blocks_computed_again() -> None:
    """Embeddings, gradients and statistics, in float64."""
    x = np.random.default_rng(3).standard_normal((4, 32, 32, 3))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # of Flax's norms
        variables = random_resnet(RESNET, x)

        def step(x: jax.Array, s: Settings = RESNET, axis_name: str | None = None) -> Any:
            def loss(params: Any) -> Any:
                held = {**variables, "params": params}
                out, new = ModifiedResNet(s).apply(held, x, train=True, axis_name=axis_name, mutable="batch_stats")
                total = jnp.sum(jnp.sin(out))
                return (total if axis_name is None else jax.lax.psum(total, axis_name)), (out, new)

            (_, (out, new)), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
            return out, new, gradient

        out, new, gradient = jax.jit(step)(x)
        again = jax.jit(lambda x: step(x, replace(RESNET, remat="full")))(x)
        parts = jax.pmap(lambda x: step(x, axis_name="data"), axis_name="data")(x.reshape(2, 2, 32, 32, 3))
        out, new, gradient, again, parts = jax.device_get((out, new, gradient, again, parts))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 0.1
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
    jax.tree.map(close, again, (out, new, gradient))
    close(parts[0].reshape(out.shape), out)
    jax.tree.map(lambda a, b: close(a[0], b), parts[1], new)
    # psum is its own transpose: each device has half of the gradient of twice the sum
    jax.tree.map(lambda a, b: close(a.sum(0) / 2, b), parts[2], gradient)


@pytest.mark.slow
def test_blocks_of_a_resnet_start_as_their_shortcuts(key: jax.Array) -> None:
    s = replace(RESNET, dtype=jnp.float32)
    variables = jax.jit(ModifiedResNet(s).init)(key, np.zeros((1, 32, 32, 3), np.float32))
    stages = [variables["params"][f"stage{n}"] for n in (1, 2, 3, 4)]
    assert all(not block["bn3"]["scale"].any() for stage in stages for block in stage.values())
    assert all(block["bn1"]["scale"].all() for stage in stages for block in stage.values())
    assert set(variables["batch_stats"]["stage3"]["rest"]["bn2"]) == {"mean", "var"}


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_parameters_in_parts_on_two_devices_have_the_gradients_of_one(tower: str) -> None:
    """FSDP, in float64, of the contrastive loss over the global batch."""
    s = replace(RESNET if tower == "resnet" else PICTURE, dtype=jnp.float64, text=replace(TEXT, depth=2))
    x = np.random.default_rng(4).standard_normal((4, s.image.size, s.image.size, 3))
    mesh = devices.make_mesh(4, 2)

    def loss(params: Any, stats: Any, x: jax.Array) -> jax.Array:
        held = {"params": params, **stats}
        out, _ = CLIP(s).apply(held, x, IDS, train=True, mutable="batch_stats")
        logits = jnp.exp(out.log_scale) * out.image @ out.text.T
        both = jax.nn.log_softmax(logits, 0) + jax.nn.log_softmax(logits, 1)
        return -jnp.diagonal(both).mean() / 2

    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # of Flax's norms
        like = jax.eval_shape(CLIP(s).init, jax.random.key(0), x, IDS)
        rng = np.random.default_rng(5)
        params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape), like["params"])
        stats = {"batch_stats": jax.tree.map(lambda leaf: np.ones(leaf.shape), like.get("batch_stats", {}))}
        one = jax.device_get(jax.jit(jax.value_and_grad(loss))(params, stats, x))
        shardings = devices.state_shardings(mesh, params)
        assert any(spec.spec for spec in jax.tree.leaves(shardings))
        placed = jax.device_put(params, shardings), stats, devices.put_batch(mesh, {"x": x})["x"]
        two = jax.device_get(jax.jit(devices.under(mesh, jax.value_and_grad(loss)))(*placed))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(one[1])) > 0.01
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), two, one)
