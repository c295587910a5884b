"""Tokens of conditions: what attention does with them, how sequences join, and which networks refuse them."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from vdm_jax.networks import families
from vdm_jax.networks.encoders import Encoder, Injection, Site, inject
from vdm_jax.networks.layers import Attention
from vdm_jax.networks.mlp import MLP
from vdm_jax.networks.multiscale import UNet
from vdm_jax.networks.tokens import Tokens
from vdm_jax.networks.vdm_unet import VDMUNet


@dataclasses.dataclass(frozen=True)
class Sequence:
    """The value [B, L, W + 1] as it is: states, and in the last column whether a position is there."""

    name: str
    length: int
    width: int

    def example(self, z: Array) -> Array:
        return jnp.ones((len(z), self.length, self.width + 1))

    def __call__(self, value: Array, site: Site) -> Injection:
        return Injection(tokens=Tokens(value[..., :-1], value[..., -1] > 0))


def attention(heads: int = 2) -> Attention:
    ones = nn.initializers.normal(0.5)
    return Attention(heads=heads, groups=2, qkv_init=ones, bias_init=ones, out_init=ones)


def draw(seed: int, *shape: int) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


X, STATES = draw(0, 2, 3, 2, 4), draw(1, 2, 5, 6)
MASK = jnp.array([[True, True, False, True, False], [False] * 5])


@pytest.mark.slow
def test_attention_over_pixels_and_tokens_is_the_formula() -> None:
    module, heads = attention(), 2
    out, variables = module.init_with_output(jax.random.key(2), X, Tokens(STATES, MASK))
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    x = np.asarray(X, np.float64).reshape(2, 6, 4)
    grouped = x.reshape(2, 6, 2, 2)
    normed = (grouped - grouped.mean((1, 3), keepdims=True)) / np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-6)
    h = normed.reshape(2, 6, 4) * params["norm"]["scale"] + params["norm"]["bias"]
    linear = lambda name, a: a @ params[name]["kernel"] + params[name]["bias"]
    expected = np.zeros((2, 6, 4))
    for b in range(2):
        kept = np.asarray(STATES, np.float64)[b, np.asarray(MASK[b])]
        k = np.concatenate([linear("token_k", kept), linear("k", h[b])])
        v = np.concatenate([linear("token_v", kept), linear("v", h[b])])
        for head in range(heads):
            part = slice(2 * head, 2 * head + 2)
            logits = linear("q", h[b])[:, part] @ k[:, part].T / np.sqrt(2)
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            expected[b, :, part] = weights / weights.sum(-1, keepdims=True) @ v[:, part]
    expected = x + linear("proj_out", expected)
    np.testing.assert_allclose(out.reshape(2, 6, 4), expected, atol=1e-5)


@pytest.mark.slow
def test_a_sequence_that_is_masked_everywhere_is_none_and_its_gradient_is_zero() -> None:
    module = attention()
    params = module.init(jax.random.key(2), X, Tokens(STATES, MASK))["params"]
    alone = {name: part for name, part in params.items() if not name.startswith("token")}
    nothing = Tokens(STATES, jnp.zeros_like(MASK))
    np.testing.assert_allclose(
        module.apply({"params": params}, X, nothing), module.apply({"params": alone}, X), atol=1e-6
    )
    loss = lambda params: jnp.sum(module.apply({"params": params}, X, nothing) ** 2)
    gradient = jax.grad(loss)(params)
    assert not np.any(gradient["token_k"]["kernel"]) and not np.any(gradient["token_v"]["kernel"])


def test_sequences_of_two_conditions_follow_each_other() -> None:
    class Entry(nn.Module):
        @nn.compact
        def __call__(self, cond: Any) -> Any:
            encoders: tuple[Encoder, ...] = (Sequence("a", 2, 3), Sequence("b", 1, 3))
            return inject(encoders, cond, Site(X, 4, nn.initializers.normal(1.0)))

    a, b = draw(3, 2, 2, 4), draw(4, 2, 1, 4)
    tokens = Entry().apply({}, {"a": a, "b": b}).tokens
    np.testing.assert_array_equal(tokens.states, np.concatenate([a, b], axis=1)[..., :3])
    np.testing.assert_array_equal(tokens.mask, np.concatenate([a, b], axis=1)[..., 3] > 0)
    with pytest.raises(ValueError, match=r"widths \[3, 5\]; attention takes one"):
        Entry().apply({}, {"a": a, "b": draw(4, 2, 1, 6)})


@pytest.mark.slow
def test_every_attention_block_of_a_multiscale_network_attends_to_the_tokens() -> None:
    settings = families.settings(
        "improved", width=8, depth=2, multipliers=(1, 2), attention_at=(4,), heads=2, encoders=(Sequence("text", 3, 5),)
    )
    net, z, t = UNet(dataclasses.replace(settings, groups=4)), draw(5, 2, 8, 8, 3), jnp.array([10.0, 400.0])
    text = draw(6, 2, 3, 6).at[..., -1].set(1.0)
    params = jax.jit(net.init)(jax.random.key(0), z, t, {"text": text})["params"]
    params = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(1), a.shape), params)
    value = lambda params, text: jnp.sum(net.apply({"params": params}, z, t, {"text": text}) ** 2)
    run = jax.jit(jax.value_and_grad(value))
    loss = lambda params, text: run(params, text)[0]
    gradient = run(params, text)[1]
    found = {
        jax.tree_util.keystr(path): np.abs(leaf).max()
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if "token_" in jax.tree_util.keystr(path) and "kernel" in jax.tree_util.keystr(path)
    }
    # blocks 0 and the scanned rest on the way down, the middle, first, rest and last on the way up
    assert len(found) == 2 * 6 and min(found.values()) > 0, found
    padded = text.at[:, 1:, -1].set(0.0)
    other = padded.at[:, 1:, :-1].add(3.0)
    assert loss(params, padded) == loss(params, other) != loss(params, text)


@pytest.mark.parametrize(
    "net", [MLP(8, 1, encoders=(Sequence("text", 3, 5),)), VDMUNet(8, 1, encoders=(Sequence("text", 3, 5),))]
)
def test_networks_without_such_attention_refuse_tokens(net: Any) -> None:
    z = jnp.zeros((2, 8)) if isinstance(net, MLP) else jnp.zeros((2, 4, 4, 3))
    with pytest.raises(ValueError, match="takes no tokens of conditions"):
        net.init(jax.random.key(0), z, jnp.zeros(2), {"text": jnp.ones((2, 3, 6))})
