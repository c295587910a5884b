"""The network of a config's `model` section, behind a common interface.

The units of the time input t depend on the network: VDM's U-Net and the MLP take t ∈ [0, 1], and a multiscale U-Net
takes t in the units of the original code.
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
        {
            "model.rescale_time": Field(
                False, "use 1000 l/T as the network's time input, not the level l", decisive=True
            )
        },
        {"method": ("ddpm", "classifier", "ddgan"), "model.network": ("multiscale",)},
    ),
    Component(
        {
            "model.residual": Field(
                "z",
                "residual connection of the network's output: z, or the exact eps of independent pixels",
                ("z", "pixel"),
                decisive=True,
            )
        },
        {"method": ("vdm", "sde", "dequantizer"), "model.network": ("unet",)},
    ),
    Component({"model.data_variance": DATA_VARIANCE}, {"method": ("vdm",), "model.residual": ("pixel",)}),
)

Module = MLP | MLPGenerator | VDMUNet | UNet | RefineNet | Classifier


def build(config: ConfigDict) -> Module:
    """Build the score network, the classifier, or the generator of a GAN."""
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
    if model.family == "ddpm" and config.method in ("sde", "dequantizer"):
        extra["attention_up"] = "level"  # as in score_sde's version of the network
    if model.family == "ncsnpp" and (config.schedule.kind != "ve_sde" or model.get("time_input") == "index"):
        extra |= {"embedding": "ddpm", "scale_by_sigma": False}  # the time input is t or an index, not log σ
    if model.family == "ddgan":
        extra |= {"latent": model.latent, "latent_width": model.latent_width, "mapping_depth": model.mapping_depth}
        extra["bounded"] = model.prediction == "x"  # pixel values are bounded; ε and z_s are not
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
    """Initialize the parameters; shape: the shape of one example."""
    z = jnp.zeros((1, *shape))
    return net.init(key, z, jnp.zeros(1), examples(encoders_of(net), z))["params"]


def encoders_of(net: Module) -> tuple[Encoder, ...]:
    """Return the encoders of the network's conditions."""
    if isinstance(net, UNet | Classifier):
        return net.settings.encoders
    return net.encoders if isinstance(net, VDMUNet | MLP) else ()


def apply(net: Module, params: Params, keys: Array | None, z: Array, level: Noise, cond: Cond) -> Array:
    """Compute the raw output of the network.

    Args:
        net: The network.
        params: Its parameters.
        keys: Keys of dropout [B]; None to switch it off.
        z: [B, …].
        level: The noise level, with fields [B].
        cond: name → value [B, …] of each condition.
    """
    # Only VDM's U-Net has Fourier features that σ can damp.
    sigma = (level.sigma,) if isinstance(net, VDMUNet) else ()
    return cast(Array, net.apply({"params": params}, z, level.t, cond, keys, *sigma))


def time_input(config: ConfigDict, num_levels: int) -> np.ndarray:
    """Return the network's time input at the levels 1 … T of a table, float64 [T]."""
    index = np.arange(num_levels, dtype=np.float64)
    if config.model.network != "multiscale":
        return (index + 1) / num_levels
    return index * (1000 / num_levels) if config.model.rescale_time else index
