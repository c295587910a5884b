"""The settings that all modules of `methods/` read from a config in the same way."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from vdm_jax import conditioning
from vdm_jax.fields import EVERYWHERE
from vdm_jax.gaussian import networks
from vdm_jax.gaussian.base import Sampler


def sampler(config: ConfigDict) -> Sampler:
    """Return the settings of the `sampling` section; fields that the sampler does not have keep their defaults."""
    section = config.sampling
    known = {field.name for field in dataclasses.fields(Sampler)} & set(section)
    interval = tuple(section.get("guidance_interval", EVERYWHERE))
    return Sampler(
        name=section.get("sampler", "ancestral"),
        interval=None if interval == EVERYWHERE else (interval[0], interval[1]),
        **{name: section[name] for name in known},
    )


def common(config: ConfigDict, net: networks.Module | None = None) -> dict[str, Any]:
    """Return the fields of `base.Gaussian`; net: the network, by default that of the config."""
    net = networks.build(config) if net is None else net
    shape = tuple(config.data.shape)
    return {
        "shape": shape,
        "vocabulary": config.data.vocabulary or None,
        "conditions": conditioning.build(config),
        "network": lambda params, keys, z, level, cond: networks.apply(net, params["network"], keys, z, level, cond),
        "init_network": lambda key: networks.init(net, key, shape),
        "target": config.model.get("prediction", "eps"),
        "sampler": sampler(config),
    }
