"""One module per paper, which builds the paper's method from a config."""

from __future__ import annotations

from ml_collections import ConfigDict

from vdm_jax.core.method import Method
from vdm_jax.methods import classifier, clip, ddgan, ddpm, dequantizer, flow_matching, sde, vdm

_BUILDERS = {
    "vdm": vdm.build,
    "ddpm": ddpm.build,
    "sde": sde.build,
    "flow_matching": flow_matching.build,
    "dequantizer": dequantizer.build,
    "classifier": classifier.build,
    "ddgan": ddgan.build,
    "clip": clip.build,
}


def build(config: ConfigDict) -> Method:
    """Return the method that `config.method` names."""
    return _BUILDERS[config.method](config)
