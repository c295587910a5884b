"""The transformer against its definition: attention by hand, blocks one by one, what each position may see."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.networks.attend import attend
from vdm_jax.networks.tokens import Tokens
from vdm_jax.networks.transformer import Settings, TokenEmbedding, Transformer
from vdm_jax.networks.transformer.settings import gelu, quick_gelu
from vdm_jax.networks.transformer.stack import Block

SMALL = Settings(width=16, depth=2, heads=2, attention="einsum")
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 5, 16)).astype(np.float32)
MASK = np.array([[True, True, False, True, True], [True, True, True, True, False]])
CONTEXT = Tokens(RNG.standard_normal((2, 3, 6)).astype(np.float32), np.array([[True, False, True], [True, True, True]]))


def params_of(s: Settings, context: Tokens | None = None, scale: float = 1.0) -> Any:
    """Random in every leaf, biases and gains too."""
    like = jax.eval_shape(lambda: Transformer(s).init(jax.random.key(0), X, None, context))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: (scale * 0.3 * rng.standard_normal(leaf.shape)).astype(np.float32), like)


def run(s: Settings, params: Any, x: np.ndarray = X, mask: Any = None, context: Tokens | None = None) -> np.ndarray:
    return np.asarray(jax.jit(Transformer(s).apply)(params, x, mask, context))


def by_hand(q: np.ndarray, k: np.ndarray, v: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """One query of one head at a time; visible: [B, Q, K]."""
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, i, h in itertools.product(range(q.shape[0]), range(q.shape[1]), range(q.shape[2])):
        open_ = visible[b, i]
        weights = np.exp(k[b, open_, h] @ q[b, i, h] / math.sqrt(q.shape[-1]))
        out[b, i, h] = weights @ v[b, open_, h] / weights.sum()
    return out


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    """Flax's layer norm promotes, and float64 meets parameters in float32 here."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_both_kinds_of_attention_are_the_definition(causal: bool, masked: bool, before: int) -> None:
    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((2, n, 3, 8)) for n in (5, 5 + before, 5 + before))
    mask = rng.random((2, 5 + before)) < 0.6
    mask[:, 0] = True  # so that each query sees a key
    visible = np.broadcast_to(mask[:, None] if masked else True, (2, 5, 5 + before)).copy()
    if causal:
        visible &= np.arange(5 + before)[None, None] <= np.arange(5)[None, :, None] + before
    expected = by_hand(q, k, v, visible)
    given = mask if masked else None
    with jax.enable_x64(True):
        for kind in ("fused", "einsum"):
            out = attend(*map(jnp.asarray, (q, k, v)), given, causal, kind)
            np.testing.assert_allclose(out, expected, atol=1e-14)
    for kind in ("fused", "einsum"):
        single = (jnp.asarray(a, jnp.float32) for a in (q, k, v))
        np.testing.assert_allclose(attend(*single, given, causal, kind), expected, atol=2e-6)
        half = (jnp.asarray(a, jnp.bfloat16) for a in (q, k, v))
        out = attend(*half, given, causal, kind)
        assert out.dtype == jnp.bfloat16
        np.testing.assert_allclose(out.astype(np.float32), expected, atol=0.05)


@pytest.mark.slow
def test_both_kinds_of_attention_have_the_same_gradients() -> None:
    s, params = replace(SMALL, causal=True), params_of(SMALL)
    loss = lambda p, s: jnp.sum(jnp.sin(Transformer(s).apply(p, X, MASK)) * MASK[..., None].astype(float))
    grads = [jax.jit(jax.grad(loss), static_argnums=1)(params, replace(s, attention=k)) for k in ("einsum", "fused")]
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads[0]))
    assert largest > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6 * largest), *grads)


@pytest.mark.parametrize("attention", ["einsum", "fused"])
def test_a_causal_transformer_sees_no_future_and_all_of_the_past(attention: str) -> None:
    s, params = replace(SMALL, causal=True, attention=attention), params_of(SMALL)
    other = X.copy()
    other[:, 3, ::2] += 1  # a norm would not see the same added to all
    moved = np.abs(run(s, params, other) - run(s, params)).max((0, 2))
    assert np.array_equal(moved[:3], np.zeros(3)) and moved[3:].min() > 1e-3
    free = np.abs(run(replace(s, causal=False), params, other) - run(replace(s, causal=False), params)).max((0, 2))
    assert free.min() > 1e-3


def test_masked_keys_are_as_if_they_were_not_there() -> None:
    mask = np.array([[True] * 3 + [False] * 2] * 2)
    params = params_of(SMALL)
    np.testing.assert_allclose(run(SMALL, params, mask=mask)[:, :3], run(SMALL, params, X[:, :3]), atol=2e-6)
    assert np.abs(run(SMALL, params)[:, :3] - run(SMALL, params, X[:, :3])).max() > 0.01


def test_a_context_is_attended_to_and_a_masked_one_is_not_there() -> None:
    params = params_of(SMALL, CONTEXT)
    inner = params["params"]["blocks"]
    plain = {**inner, "attn": {k: v for k, v in inner["attn"].items() if not k.startswith("token_")}}
    without = run(SMALL, {"params": {"blocks": plain}})
    none = CONTEXT._replace(mask=np.zeros_like(CONTEXT.mask))
    np.testing.assert_allclose(run(SMALL, params, context=none), without, atol=2e-6)
    assert np.abs(run(SMALL, params, context=CONTEXT) - without).max() > 0.01
    hidden = CONTEXT.states.copy()
    hidden[0, 1] += 1
    moved = run(SMALL, params, context=CONTEXT._replace(states=hidden)) - run(SMALL, params, context=CONTEXT)
    assert not moved.any()  # the one position that the context's mask leaves out
    hidden[1, 2] += 1
    causal = replace(SMALL, causal=True)
    moved = run(causal, params, context=CONTEXT._replace(states=hidden)) - run(causal, params, context=CONTEXT)
    assert not moved[0].any() and np.abs(moved[1]).max(1).min() > 1e-4  # all queries see all of the context


def test_the_scan_is_the_blocks_one_after_the_other() -> None:
    s = replace(SMALL, depth=3)
    params, h = params_of(s), jnp.asarray(X)
    for i in range(s.depth):
        h, _ = Block(s).apply({"params": jax.tree.map(lambda a, i=i: a[i], params["params"]["blocks"])}, h, MASK, None)
    np.testing.assert_allclose(run(s, params, mask=MASK), h, atol=5e-6)


@pytest.mark.slow
def test_what_is_computed_again_and_unrolled_has_the_same_gradients() -> None:
    params = params_of(SMALL)
    loss = lambda p, s: jnp.sum(jnp.sin(Transformer(s).apply(p, X)))
    grads = jax.jit(jax.grad(loss), static_argnums=1)
    kept = grads(params, SMALL)
    for s in (replace(SMALL, remat="full"), replace(SMALL, unroll=2)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads(params, s), kept)


def test_the_bias_of_keys_changes_nothing() -> None:
    params = params_of(SMALL)
    moved = jax.tree_util.tree_map_with_path(lambda p, a: a + 5 * ("'k'" in str(p) and "bias" in str(p)), params)
    np.testing.assert_allclose(run(SMALL, moved), run(SMALL, params), atol=1e-5)
    without = params_of(replace(SMALL, key_bias=False))
    assert "bias" not in without["params"]["blocks"]["attn"]["k"]


def test_bfloat16_computes_near_float32_with_parameters_in_float32() -> None:
    params = params_of(SMALL, scale=0.5)
    with jax.numpy_dtype_promotion("standard"):  # of Flax's layer norm
        out = jax.jit(Transformer(replace(SMALL, dtype=jnp.bfloat16)).apply)(params, X)
    assert out.dtype == jnp.bfloat16
    exact = run(SMALL, params)
    np.testing.assert_allclose(out.astype(np.float32), exact, atol=0.03 * np.abs(exact).max())
    made = jax.eval_shape(Transformer(replace(SMALL, dtype=jnp.bfloat16)).init, jax.random.key(0), X)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_kernels_start_with_the_deviations_of_clip(key: jax.Array) -> None:
    """width^−½ for q, k, v; over √(2 depth) for what is added to the states; (2 width)^−½ for the wide layer."""
    s = Settings(width=64, depth=4, heads=4)
    blocks = Transformer(s).init(key, jnp.zeros((1, 2, 64)))["params"]["blocks"]
    spread = {name: float(blocks["attn"][name]["kernel"].std()) for name in ("q", "k", "v", "proj_out")}
    spread |= {name: float(blocks[name]["kernel"].std()) for name in ("fc1", "fc2")}
    expected = {"q": 1 / 8, "k": 1 / 8, "v": 1 / 8, "proj_out": 1 / 8 / math.sqrt(8), "fc1": 1 / math.sqrt(128)}
    expected["fc2"] = expected["proj_out"]
    for name, value in expected.items():
        assert abs(spread[name] / value - 1) < 0.03, name
    assert np.abs(blocks["fc1"]["kernel"][0] - blocks["fc1"]["kernel"][1]).max() > 0.1  # a layer each


def test_both_gelus_at_known_points() -> None:
    x = np.linspace(-6, 6, 2001)
    with jax.enable_x64(True):
        exact, quick = np.asarray(gelu(jnp.asarray(x))), np.asarray(quick_gelu(jnp.asarray(x)))
    np.testing.assert_allclose(exact, [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x], atol=1e-14)
    np.testing.assert_allclose(quick, x / (1 + np.exp(-1.702 * x)), atol=1e-14)
    assert 0.0202 < np.abs(exact - quick).max() < 0.0204


def test_padding_gets_vectors_of_its_own(key: jax.Array) -> None:
    embedding = TokenEmbedding(vocabulary=7, context=6, width=4, padding=True)
    ids, mask = np.array([[1, 2, 3, 0, 0]]), np.array([[True, True, True, False, False]])
    params = embedding.init(key, ids, mask)
    p = params["params"]
    expected = np.concatenate([p["tokens"][ids[0, :3]] + p["positions"][:3], p["padding"][3:5]])
    np.testing.assert_array_equal(embedding.apply(params, ids, mask)[0], expected)
    np.testing.assert_array_equal(embedding.apply(params, ids)[0], p["tokens"][ids[0]] + p["positions"][:5])
    assert np.isnan(embedding.apply(params, np.array([[7]]))).all()  # beyond the table
    with pytest.raises(ValueError, match="7 tokens are more than the context of 6"):
        embedding.apply(params, np.zeros((1, 7), int))


def test_settings_that_make_no_sense_are_named() -> None:
    for changes, words in (
        ({"heads": 3}, "heads=3 must divide width=16"),
        ({"gelu": "tanh"}, "gelu='tanh' is unknown; take one of quick, erf"),
        ({"attention": "flash"}, "attention='flash' is unknown"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(SMALL, **changes)
