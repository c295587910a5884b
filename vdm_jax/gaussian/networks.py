"""The network that a config's `model` section describes, behind one way to call it.

Networks see a noise level as a t in units of their own: VDM's U-Net and the perceptron t ∈ [0, 1], a multiscale U-Net
what its original has.
"""

from __future__ import annotations

from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import conditioning
from vdm_jax.common_fields import DATA_VARIANCE
from vdm_jax.core.method import Params
from vdm_jax.diffusion.process import Noise
from vdm_jax.fields import Component, Field
from vdm_jax.networks import families
from vdm_jax.networks.classifier import Classifier
from vdm_jax.networks.encoders import Cond, Encoder, examples
from vdm_jax.networks.generator import MLPGenerator
from vdm_jax.networks.initial import original, structured
from vdm_jax.networks.mlp import MLP
from vdm_jax.networks.multiscale import UNet
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

Module = MLP | MLPGenerator | VDMUNet | UNet | RefineNet | Classifier


def build(config: ConfigDict) -> Module:
    """The score network, the classifier, or the generator of a GAN."""
    model = config.model
    dtype, encoders = jnp.dtype(model.dtype), tuple(c.encoder() for c in conditioning.build(config))
    if model.network == "mlp" and config.method == "ddgan":
        return MLPGenerator(model.width, model.depth, model.latent, dtype)
    if model.network == "mlp":
        return MLP(model.width, model.depth, model.dropout, dtype, encoders)
    if config.method == "classifier":
        return Classifier(_settings(config, dtype, ()), model.num_classes)
    if model.network == "multiscale":
        return UNet(_settings(config, dtype, encoders))
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
        encoders=encoders,
    )


def _settings(config: ConfigDict, dtype: Any, encoders: tuple[Encoder, ...]) -> families.Settings:
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
        encoders=encoders,
        dtype=dtype,
        remat=model.remat,
        unroll=model.unroll,
        **extra,
    )


def init(net: Module, key: Array, shape: tuple[int, ...]) -> Params:
    """Parameters before training; shape: of one example."""
    z = jnp.zeros((1, *shape))
    return net.init(key, z, jnp.zeros(1), examples(encoders_of(net), z))["params"]


def encoders_of(net: Module) -> tuple[Encoder, ...]:
    """The encoders of the conditions that a network knows."""
    if isinstance(net, UNet | Classifier):
        return net.settings.encoders
    return net.encoders if isinstance(net, VDMUNet | MLP) else ()


def apply(net: Module, params: Params, keys: Array | None, z: Array, level: Noise, cond: Cond) -> Array:
    """Raw output at a level; cond: name → value [B, …] of each condition; keys [B] switch dropout on."""
    # only VDM's U-Net has Fourier features that σ could damp
    sigma = (level.sigma,) if isinstance(net, VDMUNet) else ()
    return cast(Array, net.apply({"params": params}, z, level.t, cond, keys, *sigma))


def time_input(config: ConfigDict, num_levels: int) -> np.ndarray:
    """The network's t at the levels 1 … T of a table, float64 [T]."""
    index = np.arange(num_levels, dtype=np.float64)
    if config.model.network != "multiscale":
        return (index + 1) / num_levels
    return index * (1000 / num_levels) if config.model.rescale_time else index
