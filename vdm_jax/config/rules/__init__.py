"""Validation across the components of a config: an error for every combination that makes no sense.

The checks of a component's own fields are next to their declarations.
"""

from __future__ import annotations

from vdm_jax.config.rules import continuous, gans, labels, networks, tables
from vdm_jax.config.rules.tables import num_levels
from vdm_jax.fields import Component

__all__ = ["RULES", "num_levels"]

_MULTISCALE = ("multiscale",)
RULES = (
    Component({}, {}, networks.check_shape),
    Component({}, {"model.network": ("unet", "multiscale")}, networks.check_norms),
    Component({}, {"model.network": ("unet", "multiscale", "refinenet")}, networks.check_width),
    Component({}, {"model.residual": ("pixel",)}, networks.check_residual),
    Component({}, {"model.variance": ("learned",)}, networks.check_variance),
    Component({}, {}, labels.check_crops),
    Component({}, {"model.num_classes": ()}, labels.check_classes),
    Component({}, {"model.network": _MULTISCALE}, networks.check_multiscale),
    Component({}, {"model.network": ("refinenet",)}, networks.check_refinenet),
    Component({}, {"method": ("vdm",)}, continuous.check_vdm),
    Component({}, {"method": ("ddpm",)}, tables.check_ddpm),
    Component({}, {"method": ("sde",)}, continuous.check_sde),
    Component({}, {"method": ("dequantiser",)}, continuous.check_dequantiser),
    Component({}, {"method": ("classifier",)}, tables.check_classifier),
    Component({}, {"method": ("ddgan",)}, gans.check_ddgan),
)
