"""How conditions enter networks: what each encoder contributes, how contributions meet, and what a network refuses."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from vdm_jax.networks import families
from vdm_jax.networks.classifier import Classifier
from vdm_jax.networks.encoders import (
    ClassEmbedding,
    ConcatImage,
    Encoder,
    Feature,
    LatentStyle,
    Site,
    examples,
    inject,
)
from vdm_jax.networks.mlp import MLP
from vdm_jax.networks.multiscale import UNet
from vdm_jax.networks.vdm_unet import VDMUNet

Z = jnp.zeros((2, 4, 4, 3))
WIDTH = 5


class Entry(nn.Module):
    """What conditions contribute to a network of embedding width 5."""

    encoders: tuple[Encoder, ...]

    @nn.compact
    def __call__(self, cond: Any) -> Any:
        return inject(self.encoders, cond, Site(Z, WIDTH, nn.initializers.normal(1.0)))


def injected(encoders: tuple[Encoder, ...], cond: dict[str, Array]) -> tuple[Any, Any]:
    """(what they contribute, their parameters)."""
    out, variables = Entry(encoders).init_with_output(jax.random.key(0), cond)
    return out, variables.get("params", {})


def test_several_conditions_meet_by_concatenation_and_by_addition() -> None:
    encoders = Feature("a"), Feature("b"), ClassEmbedding("label", 3), ClassEmbedding("style", 2, "styles")
    images = ConcatImage("low", 2, 1), ConcatImage("mask", 4, 2)
    rng = np.random.default_rng(0)
    cond = {
        "a": jnp.array([1.0, 2.0]),
        "b": jnp.array([3.0, 4.0]),
        "label": jnp.array([2, 0]),
        "style": jnp.array([1, 1]),
        "low": jnp.asarray(rng.normal(size=(2, 2, 2, 1)), jnp.float32),
        "mask": jnp.asarray(rng.normal(size=(2, 4, 4, 2)), jnp.float32),
        "other": jnp.zeros(2),  # not of this network
    }
    out, params = injected((*encoders, *images), cond)
    np.testing.assert_array_equal(out.features, [[1, 3], [2, 4]])
    classes, styles = (np.asarray(params[name]["embedding"]) for name in ("classes", "styles"))
    assert classes.shape == (3, WIDTH)
    np.testing.assert_allclose(out.embedding, classes[[2, 0]] + styles[[1, 1]], rtol=1e-6)
    assert out.channels.shape == (2, 4, 4, 3) and out.style is None
    np.testing.assert_allclose(out.channels[..., 1:], cond["mask"], rtol=1e-6)
    np.testing.assert_allclose(out.channels[:, 0, 0, 0], cond["low"][:, 0, 0, 0], rtol=1e-6)  # edges are repeated
    # centers of pixels: 3/4 of the near and 1/4 of the far pixel, in both directions
    weights = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    expected = np.einsum("ai,bj,nij->nab", weights, weights, np.asarray(cond["low"])[..., 0])
    np.testing.assert_allclose(out.channels[..., 0], expected, rtol=1e-5, atol=1e-6)
    assert injected((), cond)[0] == (None,) * 5


def test_a_latent_becomes_a_style() -> None:
    out, params = injected((LatentStyle("latent", 6, width=7, depth=1),), {"latent": jnp.ones((2, 6))})
    assert out.style.shape == (2, 7) and sorted(params["mapping"]) == ["dense0", "dense1"]
    assert out.features is None and out.embedding is None and out.channels is None


def test_a_missing_condition_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"the network is conditioned on 'label'; cond has \['augmented'\]"):
        injected((ClassEmbedding("label", 3),), {"augmented": jnp.zeros(2)})
    with pytest.raises(ValueError, match="the network is conditioned on 'label'; cond has nothing"):
        injected((ClassEmbedding("label", 3),), {})


def test_two_styles_are_refused() -> None:
    encoders = LatentStyle("latent", 6), LatentStyle("other", 6, module="other_mapping")
    with pytest.raises(ValueError, match="two conditions give a style; a network takes one"):
        Entry(encoders).init(jax.random.key(0), {"latent": jnp.ones((2, 6)), "other": jnp.ones((2, 6))})
    with pytest.raises(ValueError, match="two encoders of one condition: label, label"):
        families.settings("adm", encoders=(ClassEmbedding("label", 3),), num_classes=3)


IMAGE, LATENT, BIT = ConcatImage("low", 2, 1), LatentStyle("latent", 6), Feature("augmented")
TINY: dict[str, Any] = {"width": 8, "multipliers": (1,), "depth": 1, "attention_at": (), "groups": 4}


@pytest.mark.parametrize(
    ("net", "encoder", "sentence"),
    [
        (lambda e: MLP(8, 1, encoders=e), IMAGE, "the multilayer perceptron takes no channels of conditions"),
        (lambda e: MLP(8, 1, encoders=e), LATENT, "the multilayer perceptron takes no style of conditions"),
        (lambda e: VDMUNet(8, 1, groups=4, encoders=e), IMAGE, "VDM's U-Net takes no channels of conditions"),
        (lambda e: VDMUNet(8, 1, groups=4, encoders=e), LATENT, "VDM's U-Net takes no style of conditions"),
        (
            lambda e: UNet(families.settings("ddpm", **TINY, encoders=e)),
            BIT,
            "the multiscale U-Net takes no features of conditions",
        ),
        (
            lambda e: Classifier(families.settings("adm", **TINY, head_channels=4, encoders=e), 3),
            ClassEmbedding("label", 3),
            "a classifier is conditioned on t alone, not on 'label'",
        ),
    ],
)
def test_a_way_in_that_a_network_does_not_have_is_refused(net: Any, encoder: Encoder, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(net((encoder,)).init, jax.random.key(0), Z, jnp.zeros(2), examples((encoder,), Z))


def test_shorthands_of_settings_are_encoders() -> None:
    s = families.settings("adm", num_classes=11, extra_channels=3)
    assert s.encoders == (ClassEmbedding("label", 11), ConcatImage("low_resolution", 1, 3))
    assert (s.num_classes, s.extra_channels, s.latent) == (11, 3, 0)
    s = families.settings("ddgan", latent=6, latent_width=16, mapping_depth=0)
    assert s.encoders == (LatentStyle("latent", 6, 16, 0),) and s.latent == 6
    assert families.settings("ddgan", latent=0).encoders == ()
