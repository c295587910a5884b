"""How a config departs from the papers of its method in ways that are easily overlooked."""

from __future__ import annotations

from ml_collections import ConfigDict

from vdm_jax.common_fields import PAPERS

_RESAMPLING = ("ddpm", "sde")  # methods whose papers have U-Nets of several resolutions


def departure(config: ConfigDict) -> str:
    """Return a sentence if a config of images mixes a method with the defaults of VDM, '' if it does not.

    `base()` is a VDM, and a field that two methods share keeps its value when another method is chosen.
    """
    if config.method not in _RESAMPLING or config.model.network != "unet":
        return ""
    bound = config.training.weighting == "vlb" and config.method == "ddpm"
    loss = " and the loss is the bound (config.training.weighting='vlb')" if bound else ""
    return (
        f"the network is VDM's (config.model.network='unet'){loss}, not as in the papers of "
        f"config.method={config.method!r}; --config={PAPERS[config.method]} has their settings"
    )
