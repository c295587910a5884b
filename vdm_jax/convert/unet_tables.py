"""Published weights of a multiscale U-Net ↔ ours by a table of names, for originals that Flax or TensorFlow wrote.

Their kernels are laid out as ours are, so a leaf differs in its name, in the axis that stacks equal blocks
(`unet_blocks`), and where a 1 × 1 convolution stands for a dense layer in two axes of size 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from vdm_jax.convert.unet_blocks import shapes, stack, unstack, walk
from vdm_jax.convert.vdm_layout import Flat, flatten
from vdm_jax.errors import UserError
from vdm_jax.gaussian import networks
from vdm_jax.networks.classifier import Classifier
from vdm_jax.networks.families import Settings
from vdm_jax.networks.multiscale import UNet

Shape = tuple[int, ...]
Tree = dict[str, Any]

# What decides a setting in a config, for sentences.
_FIELDS = {
    "resample": "model.family or model.resample_blocks",
    "inputs": "data.shape",
    "beside": "model.low_resolution, channels of the input",
    "outputs": "model.variance",
    "pyramid_in": "model.family",
    "pyramid_out": "model.family",
    "attention_up": "model.family",
    "embedding": "model.family, model.told and schedule.kind",
}


# Channels of the output over those of the image.
_HEADS = {1: "'beta' or 'posterior'", 2: "'learned'"}


class Leaf(NamedTuple):
    """One of our leaves, blocks by number; its shape here and in the original."""

    path: str
    shape: Shape
    theirs: Shape


Table = dict[str, Leaf]


def table(s: Settings, shape: Shape, name_of: Callable[[str, str], str]) -> Table:
    """The original's name → our leaf, in the order of evaluation.

    name_of: (our part, the leaf within it) → the original's name, which ends in '/1x1' if its kernel is a 1 × 1
    convolution's. shape: (height, width, channels) of the images.
    """
    sizes, made = shapes(s, shape), {}
    for part in walk(s, shape[0]):
        for path, size in sizes.items():
            if path == part or path.startswith(f"{part}/"):
                name = name_of(part, path[len(part) + 1 :])
                pointwise = name.endswith("/1x1")
                made[name.removesuffix("/1x1")] = Leaf(path, size, (1, 1, *size) if pointwise else size)
    return made


def refuse(flat: Flat, wanted: Mapping[str, Shape], wrong: list[str], kind: str = "key") -> None:
    """Raise UserError if there are `differences`, or a tensor that is missing, unexpected or misshapen.

    wanted: name of theirs → shape. kind: what the original calls its tensors' names.
    """
    first = first_difference(flat, wanted)
    if wrong or first:  # heads and groups are in no tensor
        raise UserError(
            f"the weights belong to another model ({'; '.join(wrong) or 'no field of the config explains it'}); "
            f"the first {kind} that differs: {first or 'none, its tensors would fit'}"
        )


def to_ours(flat: Flat, made: Table, wrong: list[str]) -> Tree:
    """The original's leaves → our network's tree.

    wrong: `differences`. Raises UserError with them and the first leaf that is missing, unexpected or misshapen.
    """
    refuse(flat, {name: leaf.theirs for name, leaf in made.items()}, wrong, "leaf")
    blocks = {leaf.path: flat[name].reshape(leaf.shape) for name, leaf in made.items()}
    return unflatten_dict(stack(blocks), sep="/")


def to_theirs(params: Tree, made: Table) -> Flat:
    """The inverse of `to_ours`, bit for bit. Raises UserError naming the first leaf that does not fit."""
    blocks = unstack(flatten(params))
    if first := first_difference(blocks, {leaf.path: leaf.shape for leaf in made.values()}):
        raise UserError(f"the parameters are not those of the network; the first leaf that differs: {first}")
    return {name: blocks[leaf.path].reshape(leaf.theirs) for name, leaf in made.items()}


def first_difference(flat: Flat, wanted: Mapping[str, Shape]) -> str | None:
    """The first of `wanted` that is missing or misshapen, else the first leaf that is too many, in words."""
    for name, size in wanted.items():
        if name not in flat:
            return f"{name} of shape {size} is missing"
        if flat[name].shape != size:
            return f"{name} has the shape {flat[name].shape}, not {size}"
    extra = next((name for name in flat if name not in wanted), None)
    return extra and f"{extra} of shape {flat[extra].shape} is not expected"


def differences(found: Mapping[str, Any], s: Settings, shape: Shape, **asked: Any) -> list[str]:
    """'model.depth: 3 in the weights, 2 in the config', for every setting that the tensors contradict.

    found: what they tell, by the names of `Settings`; 'inputs' and 'attends' (of every level) besides.
    asked: what is wanted of them where it is not what the settings say.
    """
    asked = {"inputs": shape[-1] + s.extra_channels, "attends": s.attends(shape[0]), **asked}
    differing = []
    for name, value in found.items():
        wanted = asked[name] if name in asked else getattr(s, name)
        if value == wanted:
            continue
        if name == "inputs" and {value, wanted} == {shape[-1], 2 * shape[-1]}:
            name = "beside"
        if name == "attends":
            sizes = lambda attends: tuple(shape[0] >> i for i, yes in enumerate(attends) if yes)
            name, value, wanted = "attention_at", sizes(value), s.attention_at
        words = _HEADS if name == "outputs" else {}
        where = "in all such weights" if name == "groups" else "in the weights"
        differing.append(
            f"{_FIELDS.get(name, f'model.{name}')}: {words.get(value, repr(value))} {where}, "
            f"{words.get(wanted, repr(wanted))} in the config"
        )
    return differing


def load(
    path: str,
    state: Mapping[str, Any],
    from_original: Callable[[Flat, Settings, Shape], Tree],
    config: ConfigDict,
    like: Any,
) -> tuple[Tree, int]:
    """(our params {'network': …} on one device, step) from what a file holds.

    state: 'params', 'ema_params' (name → array), 'step'. Takes the average or the raw weights as
    `evaluation.weights` says. like: shapes and dtypes of the params that the config's method has.
    Raises UserError if the file lacks them or they are not the config's.
    """
    which = "ema_params" if config.evaluation.weights == "ema" else "params"
    if which not in state:
        have = "raw" if which == "ema_params" else "ema"
        raise UserError(f"{path} has no {which}; set config.evaluation.weights={have!r} to use the weights it has")
    if config.model.get("prediction", "eps") != "eps":
        raise UserError(f"{path} predicts eps; config.model.prediction={config.model.prediction!r} is another model")
    params = {"network": from_original(state[which], settings_of(config), tuple(config.data.shape))}
    params = jax.tree.map(lambda leaf, target: jnp.asarray(leaf, target.dtype), params, like)
    return params, state.get("step", 0)


def settings_of(config: ConfigDict) -> Settings:
    """Of the config's network. Raises UserError if it is none of those that resample."""
    net = networks.build(config)
    if not isinstance(net, UNet | Classifier):
        raise UserError(
            f"the weights are a multiscale U-Net's, config.model.network={config.model.network!r} is another; "
            "set it to 'multiscale' and config.model.family to theirs"
        )
    return net.settings


def size(flat: Flat, name: str, axis: int) -> int:
    """Of an axis of a leaf of the original. Raises UserError if there is none."""
    if name not in flat or flat[name].ndim <= axis or flat[name].size == 0:
        raise UserError(f"the weights have no usable leaf {name}; are they of such a network?")
    return flat[name].shape[axis]


def count(flat: Flat, pattern: str) -> int:
    """How many different things the pattern's group matches at the start of the names."""
    return len({m[1] for m in (re.match(pattern, name) for name in flat) if m})
