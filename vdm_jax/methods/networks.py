"""The network that a config's `model` section describes, behind one way to call it.

Networks are told of a level in units of their own: VDM's U-Net and the perceptron t ∈ [0, 1], a multiscale U-Net
what its original was told.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.common_fields import DATA_VARIANCE
from vdm_jax.diffusion.process import Noise
from vdm_jax.fields import Component, Field, value
from vdm_jax.methods.base import Params
from vdm_jax.methods.conditioning import Conditioning
from vdm_jax.networks import families
from vdm_jax.networks.classifier import Classifier
from vdm_jax.networks.generator import MLPGenerator
from vdm_jax.networks.initial import original, structured
from vdm_jax.networks.mlp import MLP
from vdm_jax.networks.multiscale import UNet, beside
from vdm_jax.networks.refinenet import RefineNet
from vdm_jax.networks.vdm_unet import VDMUNet

COMPONENTS = (
    Component(
        {"model.rescale_time": Field(False, "the network is told 1000 l/T, not the level l", decisive=True)},
        {"method": ("ddpm", "classifier", "ddgan"), "model.network": ("multiscale",)},
    ),
    Component(
        {
            "model.residual": Field(
                "z",
                "what the network's output is added to: z or the exact eps of lone pixels",
                ("z", "pixel"),
                decisive=True,
            )
        },
        {"method": ("vdm", "sde", "dequantiser"), "model.network": ("unet",)},
    ),
    Component({"model.data_variance": DATA_VARIANCE}, {"method": ("vdm",), "model.residual": ("pixel",)}),
)

Network = MLP | MLPGenerator | VDMUNet | UNet | RefineNet | Classifier


def network(config: ConfigDict) -> Network:
    """The score network, the classifier, or the generator of a GAN."""
    model = config.model
    dtype, classes = jnp.dtype(model.dtype), _classes(config)
    if model.network == "mlp" and config.method == "ddgan":
        return MLPGenerator(model.width, model.depth, model.latent, dtype)
    if model.network == "mlp":
        return MLP(model.width, model.depth, model.dropout, dtype, classes)
    if config.method == "classifier":
        return Classifier(replace(_settings(config, dtype), num_classes=0), model.num_classes)
    if model.network == "multiscale":
        return UNet(_settings(config, dtype))
    if model.network == "refinenet":
        return RefineNet(model.width, config.training.num_timesteps, dtype)
    return VDMUNet(
        width=model.width,
        depth=model.depth,
        fourier=tuple(model.fourier),
        attention=model.attention,
        dropout_rate=model.dropout,
        groups=model.groups,
        dtype=dtype,
        remat=model.remat,
        unroll=model.unroll,
        initial=structured(model.depth, config.data.shape[-1]) if model.initial == "structured" else original(),
        residual=model.get("residual", "z") == "z",
        damped=model.fourier_damping,
        num_classes=classes,
    )


def _classes(config: ConfigDict) -> int:
    """Labels that the network knows, the null class among them."""
    classes: int = value(config, "model.num_classes", 0) + value(config, "model.null_class", False)
    return classes


def _settings(config: ConfigDict, dtype: Any) -> families.Settings:
    model = config.model
    extra: dict[str, Any] = {}
    if model.family in ("improved", "adm"):
        extra["scale_shift"] = model.scale_shift
    if model.family == "adm":
        extra |= {"resample": "block" if model.resample_blocks else "conv", "rescale": model.rescale}
    if model.family == "ddpm" and config.method in ("sde", "dequantiser"):
        extra["attention_up"] = "level"  # as score_sde's own copy has it
    if model.family == "ncsnpp" and (config.schedule.kind != "ve_sde" or model.get("told") == "index"):
        extra |= {"embedding": "ddpm", "scale_by_sigma": False}  # told a time or a number, not log σ
    if model.family == "ddgan":
        extra |= {"latent": model.latent, "latent_width": model.latent_width, "mapping_depth": model.mapping_depth}
        extra["bounded"] = model.prediction == "x"  # a pixel; ε and z_s have no bounds
    return families.settings(
        model.family,
        width=model.width,
        depth=model.depth,
        multipliers=tuple(model.multipliers),
        attention_at=tuple(model.attention_at),
        heads=model.heads,
        head_channels=model.head_channels,
        dropout_rate=model.get("dropout", 0.0),
        groups=model.groups,
        outputs=2 if model.get("variance") == "learned" else 1,
        num_classes=_classes(config),
        given=config.data.shape[-1] if model.get("low_resolution", 0) else 0,
        dtype=dtype,
        remat=model.remat,
        unroll=model.unroll,
        **extra,
    )


def init(net: Network, key: Array, shape: tuple[int, ...]) -> Params:
    """Parameters before training; shape: of one example."""
    given = net.settings.given if isinstance(net, UNet) else 0
    z = jnp.zeros((1, *shape[:-1], shape[-1] + given))
    return net.init(key, z, jnp.zeros(1), jnp.zeros(1))["params"]


def apply(net: Network, params: Params, keys: Array | None, z: Array, level: Noise, cond: Any) -> Array:
    """Raw output at a level, told a label or a bit [B] or `Conditioning`; keys [B] switch dropout on."""
    if isinstance(cond, Conditioning):
        z, cond = beside(z, cond.low), cond.label
    # only VDM's U-Net has Fourier features that σ could damp
    sigma = (level.sigma,) if isinstance(net, VDMUNet) else ()
    return cast(Array, net.apply({"params": params}, z, level.t, cond, keys, *sigma))


def told(config: ConfigDict, num_levels: int) -> np.ndarray:
    """What the network is told of the levels 1 … T of a table, float64 [T]."""
    index = np.arange(num_levels, dtype=np.float64)
    if config.model.network != "multiscale":
        return (index + 1) / num_levels
    return index * (1000 / num_levels) if config.model.rescale_time else index
