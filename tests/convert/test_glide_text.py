"""The transformer with a learned padding is GLIDE's text encoder (goldens/README.md)."""

from __future__ import annotations

from dataclasses import replace

import flax.linen as nn
import jax
import numpy as np
from jax import Array

from tests.convert.clip_recipe import golden, state_dict, texts
from vdm_jax.networks.transformer import Settings, TokenEmbedding, Transformer, layer_norm

LENGTHS = (4, 11, 7)
ENCODER = Settings(width=32, depth=2, heads=2, gelu="erf")


class TextEncoder(nn.Module):
    settings: Settings

    @nn.compact
    def __call__(self, ids: Array, mask: Array | None) -> Array:
        s = self.settings
        x = TokenEmbedding(97, 11, s.width, padding=True, name="embedding")(ids, mask)
        return layer_norm(s.epsilon, s.dtype, "norm_out")(Transformer(s, name="transformer")(x))


def block(flat: dict[str, np.ndarray], number: int) -> dict:
    """A block of theirs, whose rows of q, k and v are [q | k | v] of one head after the other."""
    get = lambda name: flat[f"transformer.resblocks.{number}.{name}"]
    dense = lambda name: {"kernel": get(f"{name}.weight").T, "bias": get(f"{name}.bias")}
    norm = lambda name: {"scale": get(f"{name}.weight"), "bias": get(f"{name}.bias")}
    heads, width = ENCODER.heads, ENCODER.width
    weight = get("attn.c_qkv.weight").reshape(heads, 3, width // heads, width)
    bias = get("attn.c_qkv.bias").reshape(heads, 3, width // heads)
    attention = {
        name: {"kernel": weight[:, i].reshape(width, width).T, "bias": bias[:, i].reshape(width)}
        for i, name in enumerate("qkv")
    }
    return {
        "attn": {**attention, "proj_out": dense("attn.c_proj")},
        "fc1": dense("mlp.c_fc"),
        "fc2": dense("mlp.c_proj"),
        "norm1": norm("ln_1"),
        "norm2": norm("ln_2"),
    }


def error(s: Settings, padding: bool = True) -> float:
    """The largest difference from the original over the 1e-5 · max(1, |output|) that are allowed."""
    flat, expected = state_dict("glide_text"), golden("glide_text")["states"]
    names = {"tokens": "token_embedding.weight", "positions": "positional_embedding", "padding": "padding_embedding"}
    params = {
        "embedding": {ours: flat[theirs] for ours, theirs in names.items()},
        "transformer": {"blocks": jax.tree.map(lambda *layers: np.stack(layers), block(flat, 0), block(flat, 1))},
        "norm_out": {"scale": flat["final_ln.weight"], "bias": flat["final_ln.bias"]},
    }
    mask = np.arange(11)[None] < np.array(LENGTHS)[:, None]
    ids = texts("glide_text", 97, 11, LENGTHS)
    out = np.asarray(jax.jit(TextEncoder(s).apply)({"params": params}, ids, mask if padding else None))
    return float(np.abs(out - expected).max() / (1e-5 * max(1.0, np.abs(expected).max())))


def test_states_are_the_original_s_at_text_and_at_padding() -> None:
    assert error(ENCODER) < 1
    assert error(replace(ENCODER, attention="einsum")) < 1


def test_goldens_notice_a_mistake() -> None:
    assert error(ENCODER, padding=False) > 1e3
    assert error(replace(ENCODER, causal=True)) > 1e3
    assert error(replace(ENCODER, gelu="quick")) > 100
