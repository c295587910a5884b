"""Weights of ermongroup/ncsn ↔ our parameters of `networks.refinenet`.

    params = from_original(flat, width=128, levels=10, channels=3)          # its network for CIFAR-10

Its checkpoints are lists of a state_dict and an optimizer's state, written by a PyTorch before 1.6. This module reads a
file of the state_dict only, which `torch.save(torch.load("checkpoint.pth", map_location="cpu")[0], "ncsn.pt")` writes.
Names may begin with 'module.'. The file contains one set of weights; there is no EMA.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from vdm_jax.convert import torch_wrapped
from vdm_jax.convert.unet_tables import Tree, refuse
from vdm_jax.convert.vdm_layout import Flat
from vdm_jax.errors import UserError
from vdm_jax.networks.refinenet import RefineNet

_PREFIX = "module."
# Our names → original names; the rules apply in order.
_RULES = (
    (r"^(begin|end)/", r"\1_conv/"),
    (r"^norm/", r"normalizer/"),
    (r"^stage(\d)_(\d)/", r"res\1/\2/"),
    (r"/norm([12])/", r"/normalize\1/"),
    (r"^(res2/0/(conv2|shortcut))/", r"\1/conv/"),  # followed by pooling
    (r"/adapt(\d)/", r"/adapt_convs/\1/"),
    (r"/out/", r"/output_convs/"),
    (r"/fuse_norm(\d)/", r"/msf/norms/\1/"),
    (r"/fuse(\d)/", r"/msf/convs/\1/"),
    (r"/pool_norm(\d)/", r"/crp/norms/\1/"),
    (r"/pool(\d)/", r"/crp/convs/\1/"),
    (r"embedding$", "embed/weight"),
    (r"kernel$", "weight"),
)


def name_of(path: str) -> str:
    """Return the original name of one of our leaves."""
    path = re.sub(r"/(norm|conv)(\d)_(\d)/", lambda m: f"/{int(m[2]) + 1}_{int(m[3]) + 1}_{m[1]}/", path)
    for pattern, name in _RULES:
        path = re.sub(pattern, name, path)
    return path.replace("/", ".")


@lru_cache(maxsize=4)
def shapes(width: int, levels: int, channels: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of our leaves by path."""
    image, t = jnp.zeros((1, 2, 2, channels)), jnp.zeros(1)
    made = jax.eval_shape(RefineNet(width, levels).init, jax.random.key(0), image, t, t)
    return {path: leaf.shape for path, leaf in flatten_dict(made["params"], sep="/").items()}


def from_original(flat: Flat, *, width: int, levels: int, channels: int) -> Tree:
    """Convert the original's state_dict to the params of our network, in the same dtype.

    Args:
        flat: Name → array.
        width: Channels of the RefineNet.
        levels: Number of noise levels.
        channels: Channels of the images.

    Raises:
        UserError: Names the fields that the tensors contradict, and the first tensor that is missing, unexpected or
            has the wrong shape.
    """
    flat = {name.removeprefix(_PREFIX): leaf for name, leaf in flat.items()}
    ours = shapes(width, levels, channels)
    turned = {p: (s[3], s[2], s[0], s[1]) if len(s) == 4 else s for p, s in ours.items()}
    refuse(flat, {name_of(path): shape for path, shape in turned.items()}, _differences(flat, width, levels, channels))
    taken = {path: flat[name_of(path)] for path in ours}
    return unflatten_dict({p: a.transpose(2, 3, 1, 0) if a.ndim == 4 else a for p, a in taken.items()}, sep="/")


def _differences(flat: Flat, width: int, levels: int, channels: int) -> list[str]:
    begin, table = (flat.get(name, np.zeros(())) for name in ("begin_conv.weight", "normalizer.embed.weight"))
    if begin.ndim != 4 or table.ndim != 2:
        return ["it has no begin_conv and normalizer as NCSN's RefineNet"]
    fields = {
        "model.width": (begin.shape[0], width),
        "data.shape": (begin.shape[1], channels),
        "training.num_timesteps": (table.shape[0], levels),
    }
    return [f"{field}: {a} in the weights, {b} in the config" for field, (a, b) in fields.items() if a != b]


def load(path: str, config: ConfigDict, like: Any) -> tuple[Tree, int]:
    """Load the weights at `path` as (our params {'network': …} on one device, 0).

    `evaluation.weights` selects between EMA and raw weights if the file has both; the original's files do not.
    """
    flat = torch_wrapped.read(path, config.evaluation.weights)
    if config.model.network != "refinenet":
        raise UserError(
            f"{path} is a PyTorch file, and config.method='sde' reads only PyTorch files of NCSN; set "
            "config.model.network='refinenet', as configs/ncsn_cifar10.py does"
        )
    network = from_original(
        flat, width=config.model.width, levels=config.training.num_timesteps, channels=config.data.shape[-1]
    )
    return jax.tree.map(lambda leaf, target: jnp.asarray(leaf, target.dtype), {"network": network}, like), 0
