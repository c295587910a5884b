"""Weights of openai/guided-diffusion ↔ our parameters: diffusion models and upsamplers (`networks.multiscale.UNet`),
classifiers (`networks.classifier.Classifier`).

    s = families.settings("adm", width=192, depth=3, multipliers=(1, 2, 3, 4), num_classes=1000)
    params = from_original(flat, s, (64, 64, 3), "new")                     # 64x64_diffusion.pt

An upsampler's settings have extra_channels=3, and a classifier's number of classes is an argument. The names are
those of improved-diffusion. The rows of q, k and v have one of two orders:

    legacy    [q | k | v] of the first head, then of the second, …
    new       q of all heads, then k of all, then v

No tensor determines the order, and weights loaded with the wrong order raise no error and produce noise. So there is no
default: a config sets model.qkv_order, as those of the released models do. For tensors of the released sizes, `load`
refuses the wrong order.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ml_collections import ConfigDict

from vdm_jax.convert import improved_diffusion, torch_wrapped
from vdm_jax.convert import unet_tables as tables
from vdm_jax.convert.improved_diffusion import Form
from vdm_jax.convert.unet_tables import Shape, Tree
from vdm_jax.convert.vdm_layout import Flat
from vdm_jax.errors import UserError
from vdm_jax.networks.families import Settings

ORDERS = ("legacy", "new")
# (width, multipliers) of the released models → (files, order).
_RELEASED = {
    (192, (1, 2, 3, 4)): ("64x64_diffusion.pt", "new"),
    (256, (1, 1, 2, 3, 4)): ("128x128_diffusion.pt", "legacy"),
    (256, (1, 1, 2, 2, 4, 4)): ("256x256_diffusion.pt, its unconditional twin and the LSUN models", "legacy"),
    (256, (0.5, 1, 1, 2, 2, 4, 4)): ("512x512_diffusion.pt", "legacy"),
    (192, (1, 1, 2, 2, 4, 4)): ("64_256_upsampler.pt and 128_512_upsampler.pt", "legacy"),
    (128, (1, 2, 3, 4)): ("64x64_classifier.pt", "legacy"),
    (128, (1, 1, 2, 3, 4)): ("128x128_classifier.pt", "legacy"),
    (128, (1, 1, 2, 2, 4, 4)): ("256x256_classifier.pt", "legacy"),
    (128, (0.5, 1, 1, 2, 2, 4, 4)): ("512x512_classifier.pt", "legacy"),
}


def from_original(flat: Flat, s: Settings, shape: Shape, order: str, classes: int = 0) -> Tree:
    """Convert the original's state_dict to the params of our network, in the same dtype.

    Args:
        flat: Name → array.
        s: Settings of our network.
        shape: (height, width, channels) of the images.
        order: Order of the rows of q, k and v, one of ORDERS.
        classes: Number of classes of a classifier; 0 for a U-Net.

    Raises:
        UserError: The tensors contradict the settings; names the fields and the first key that differs.
    """
    form = _form(order, classes)
    kinds = {"a U-Net's": "output_blocks.0.0.in_layers.0.weight", "a classifier's": "out.2.c_proj.weight"}
    expected, other = reversed(kinds) if classes else kinds
    if kinds[other] in flat and kinds[expected] not in flat:
        raise UserError(
            f"the weights are {other}, and {expected} are required; config.method='classifier' takes a classifier's"
        )
    return improved_diffusion.from_original(flat, s, shape, form)


def to_original(params: Tree, s: Settings, shape: Shape, order: str, classes: int = 0) -> Flat:
    """Convert our params to the original's: the bit-exact inverse of `from_original`."""
    return improved_diffusion.to_original(params, s, shape, _form(order, classes))


def _form(order: str, classes: int) -> Form:
    if order not in ORDERS:
        raise UserError(
            f"config.model.qkv_order={order!r}: no tensor of guided-diffusion's weights shows the order of q, k and v; "
            "set it to 'new' for 64x64_diffusion.pt and models trained with use_new_attention_order, else to 'legacy'"
        )
    return Form(classes, order == "legacy")


def load(path: str, config: ConfigDict, like: Any) -> tuple[Tree, int]:
    """Load the .pt file at `path` as (our params on one device, 0); see `unet_tables.load`."""
    flat, order = torch_wrapped.read(path, config.evaluation.weights), config.model.qkv_order
    classes = config.model.num_classes if config.method == "classifier" else 0
    check_order(tables.settings_of(config), order)
    convert = partial(from_original, order=order, classes=classes)
    # a .pt contains one set of weights, EMA or raw, without a label
    return tables.load(path, {"params": flat, "ema_params": flat}, convert, config, like)


def check_order(s: Settings, order: str) -> None:
    """Raise UserError if a released model has these sizes and another order."""
    files, right = _RELEASED.get((s.width, s.multipliers), ("", order))
    if order in ORDERS and order != right:
        raise UserError(
            f"config.model.qkv_order={order!r}, but {files}, whose sizes these are, have q, k and v in the order "
            f"{right!r} and would produce noise; set that, or convert other weights with "
            f"vdm_jax.convert.guided_diffusion.from_original"
        )
