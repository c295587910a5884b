"""Weights of hojonathanho/diffusion, exported from TensorFlow to .npz ↔ our parameters of `networks.multiscale`.

    s = families.settings("ddpm")                        # its CIFAR-10
    state = read("ddpm.npz")                             # 'params', 'ema_params', 'step'
    params = from_original(state["ema_params"], s, (32, 32, 3))

The export contains the variables of the checkpoint by name. Where TensorFlow is installed, make it with

    reader = tf.train.load_checkpoint("model.ckpt")
    np.savez("ddpm.npz", **{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()})

Kernels are HWIO and [in, out], as ours are; scale and bias of a norm are named gamma and beta.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vdm_jax.convert import npz
from vdm_jax.convert import unet_tables as tables
from vdm_jax.convert.unet_tables import Shape, Table, Tree
from vdm_jax.convert.vdm_layout import Flat, flatten
from vdm_jax.errors import UserError
from vdm_jax.networks.families import Settings

AVERAGE = "/ExponentialMovingAverage"
ADAM = ("/Adam", "/Adam_1")

# Our part of the network → the original's.
_PARTS = (
    (r"(dense[01])", r"temb/\1"),
    (r"(down|up)(\d+)/(\d+)/res", r"\1_\2/block_\3"),
    (r"(down|up)(\d+)/(\d+)/attn", r"\1_\2/attn_\3"),
    (r"mid([12])", r"mid/block_\1"),
    (r"mid_attn", "mid/attn_1"),
    (r"grow(\d+)/conv", r"up_\1/upsample/conv"),
    (r"(conv_in|norm_out|conv_out)", r"\1"),
)
_LAYERS = {"cond_proj": "temb_proj", "shortcut": "nin_shortcut"}


def read(path: str) -> dict[str, Any]:
    """Read the exported variables at `path`, without those of Adam.

    Returns:
        A dictionary with those of 'params', 'ema_params' (name → array) and 'step' that the file has.

    Raises:
        UserError: The file is not an .npz file, or not one of the original.
    """
    variables = {name.removesuffix(":0"): array for name, array in npz.read(path).items()}
    average = {n.removesuffix(AVERAGE): a for n, a in variables.items() if n.endswith(AVERAGE)}
    raw = {n: a for n, a in variables.items() if n.startswith("model/") and not n.endswith((AVERAGE, *ADAM))}
    state = {name: flat for name, flat in (("params", raw), ("ema_params", average)) if flat}
    if not state:
        held = ", ".join(sorted(variables)[:5]) or "nothing"
        raise UserError(f"{path} holds {held}, not the variables of hojonathanho/diffusion (model/conv_in/W, …)")
    step = np.asarray(variables.get("global_step"))
    return state | ({"step": int(step)} if step.ndim == 0 and step.dtype.kind in "iu" else {})


def load(path: str, config: ConfigDict, like: Any) -> tuple[Tree, int]:
    """Load the weights at `path` as (our params on one device, step); see `unet_tables.load`."""
    return tables.load(path, read(path), from_original, config, like)


def from_original(flat: Flat, s: Settings, shape: Shape) -> Tree:
    """Convert the original's variables to the params of our network, in the same dtype.

    Args:
        flat: Name → array.
        s: Settings of our network.
        shape: (height, width, channels) of the images.

    Raises:
        UserError: The tensors contradict the settings; names the fields and the first variable that differs.
    """
    flat = flatten(flat)
    return tables.to_ours(flat, names(s, shape), tables.differences(describe(flat), s, shape))


def to_original(params: Tree, s: Settings, shape: Shape) -> Flat:
    """Convert our params to the original's: the bit-exact inverse of `from_original`."""
    return tables.to_theirs(params, names(s, shape))


@lru_cache(maxsize=4)
def names(s: Settings, shape: Shape) -> Table:
    """Map original names to our leaves; a UserError says that the original code cannot represent the network."""
    other = s.resample != "conv" or s.pyramid_in != "none" or s.pyramid_out != "none" or s.embedding != "ddpm"
    if other or s.num_classes or s.attention_up != "block":
        raise UserError("these weights are of DDPM's own network; set config.model.family='ddpm'")
    return tables.table(s, shape, _name)


def _name(part: str, inside: str) -> str:
    if shrink := re.fullmatch(r"shrink(\d+)/conv", part):
        place = f"down_{int(shrink[1]) - 1}/downsample/conv"
    else:
        place = next(re.sub(ours, theirs, part) for ours, theirs in _PARTS if re.fullmatch(ours, part))
    *layer, leaf = inside.split("/")
    inner = [_LAYERS.get(name, name) for name in layer]
    if (layer[-1] if layer else part).startswith("norm"):
        leaf = {"scale": "gamma", "bias": "beta"}[leaf]
    else:
        leaf = {"kernel": "W", "bias": "b"}[leaf]
    return "/".join(("model", place, *inner, leaf))


def describe(flat: Flat) -> dict[str, Any]:
    """Return the settings that the tensors determine or always have, for `unet_tables.differences`."""
    width, inputs = (tables.size(flat, "model/conv_in/W", axis) for axis in (3, 2))
    levels = range(tables.count(flat, r"model/down_(\d+)/"))
    return {
        "inputs": inputs,
        "width": width,
        "multipliers": tuple(tables.size(flat, f"model/down_{i}/block_0/conv1/W", 3) / width for i in levels),
        "depth": tables.count(flat, r"model/down_0/block_(\d+)/"),
        "attends": tuple(f"model/down_{i}/attn_0/q/W" in flat for i in levels),
        "outputs": tables.size(flat, "model/conv_out/W", 3) / inputs,
        "heads": 1,
        "groups": 32,
        "scale_shift": False,
    }
