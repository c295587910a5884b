"""Published weights of a multiscale U-Net ↔ ours by a table of names, for originals in Flax or TensorFlow.

Their kernels have the same layout as ours. A leaf differs in its name, in the axis that stacks equal blocks
(`stacking`), and in two axes of size 1 where the original has a 1 × 1 convolution for our dense layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from vdm_jax.convert.stacking import stack, unstack
from vdm_jax.convert.unet_blocks import shapes, walk
from vdm_jax.convert.vdm_layout import Flat, flatten
from vdm_jax.errors import UserError
from vdm_jax.gaussian import networks
from vdm_jax.networks.classifier import Classifier
from vdm_jax.networks.families import Settings
from vdm_jax.networks.multiscale import UNet

Shape = tuple[int, ...]
Tree = dict[str, Any]

# Setting → config fields that determine it, for error messages.
_FIELDS = {
    "resample": "model.family or model.resample_blocks",
    "inputs": "data.shape",
    "beside": "model.low_resolution, channels of the input",
    "outputs": "model.variance",
    "pyramid_in": "model.family",
    "pyramid_out": "model.family",
    "attention_up": "model.family",
    "embedding": "model.family, model.time_input and schedule.kind",
}


# Ratio of output channels to image channels → model.variance.
_HEADS = {1: "'beta' or 'posterior'", 2: "'learned'"}


class Leaf(NamedTuple):
    """One of our leaves, with numbered blocks; its shape here and in the original."""

    path: str
    shape: Shape
    theirs: Shape


Table = dict[str, Leaf]


def table(s: Settings, shape: Shape, name_of: Callable[[str, str], str]) -> Table:
    """Map original names to our leaves, in the order of evaluation.

    Args:
        s: Settings of our network.
        shape: (height, width, channels) of the images.
        name_of: (our part, the leaf within it) → the original name, with the suffix '/1x1' if the original kernel is
            that of a 1 × 1 convolution.
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
    """Raise UserError if the settings differ, or a tensor is missing, unexpected or has the wrong shape.

    Args:
        flat: Name → array.
        wanted: Expected shapes by original name.
        wrong: The output of `differences`.
        kind: The word for a tensor's name in the error message.
    """
    first = first_difference(flat, wanted)
    if wrong or first:  # no tensor shows heads and groups
        raise UserError(
            f"the weights belong to another model ({'; '.join(wrong) or 'no field of the config explains it'}); "
            f"the first {kind} that differs: {first or 'none, its tensors would fit'}"
        )


def to_ours(flat: Flat, made: Table, wrong: list[str]) -> Tree:
    """Convert the original's leaves to the tree of our network.

    Args:
        flat: Name → array.
        made: The output of `table`.
        wrong: The output of `differences`.

    Raises:
        UserError: Names the differences and the first leaf that is missing, unexpected or has the wrong shape.
    """
    refuse(flat, {name: leaf.theirs for name, leaf in made.items()}, wrong, "leaf")
    blocks = {leaf.path: flat[name].reshape(leaf.shape) for name, leaf in made.items()}
    return unflatten_dict(stack(blocks), sep="/")


def to_theirs(params: Tree, made: Table) -> Flat:
    """Convert our params to the original's: the bit-exact inverse of `to_ours`; a UserError names the first misfit."""
    blocks = unstack(flatten(params))
    if first := first_difference(blocks, {leaf.path: leaf.shape for leaf in made.values()}):
        raise UserError(f"the parameters are not those of the network; the first leaf that differs: {first}")
    return {name: blocks[leaf.path].reshape(leaf.theirs) for name, leaf in made.items()}


def first_difference(flat: Flat, wanted: Mapping[str, Shape]) -> str | None:
    """Describe the first expected leaf that is missing or has the wrong shape, else the first unexpected leaf."""
    for name, size in wanted.items():
        if name not in flat:
            return f"{name} of shape {size} is missing"
        if flat[name].shape != size:
            return f"{name} has the shape {flat[name].shape}, not {size}"
    extra = next((name for name in flat if name not in wanted), None)
    return extra and f"{extra} of shape {flat[extra].shape} is not expected"


def differences(found: Mapping[str, Any], s: Settings, shape: Shape, **expected: Any) -> list[str]:
    """List the settings that the tensors contradict, as 'model.depth: 3 in the weights, 2 in the config'.

    Args:
        found: Settings of the weights by field of `Settings`, plus 'inputs' and 'attends' (per resolution).
        s: Settings of our network.
        shape: (height, width, channels) of the images.
        expected: Expected values that override those of `s`.
    """
    expected = {"inputs": shape[-1] + s.extra_channels, "attends": s.attends(shape[0]), **expected}
    differing = []
    for name, value in found.items():
        target = expected[name] if name in expected else getattr(s, name)
        if value == target:
            continue
        if name == "inputs" and {value, target} == {shape[-1], 2 * shape[-1]}:
            name = "beside"
        if name == "attends":
            sizes = lambda attends: tuple(shape[0] >> i for i, yes in enumerate(attends) if yes)
            name, value, target = "attention_at", sizes(value), s.attention_at
        words = _HEADS if name == "outputs" else {}
        where = "in all such weights" if name == "groups" else "in the weights"
        differing.append(
            f"{_FIELDS.get(name, f'model.{name}')}: {words.get(value, repr(value))} {where}, "
            f"{words.get(target, repr(target))} in the config"
        )
    return differing


def load(
    path: str,
    state: Mapping[str, Any],
    from_original: Callable[[Flat, Settings, Shape], Tree],
    config: ConfigDict,
    like: Any,
) -> tuple[Tree, int]:
    """Convert the content of a file to our params, using EMA or raw weights according to `evaluation.weights`.

    Args:
        path: The file, for error messages.
        state: 'params', 'ema_params' (name → array), 'step'.
        from_original: The converter.
        config: The config of the run.
        like: Shapes and dtypes of the params of the config's method.

    Returns:
        (our params {'network': …} on one device, step).

    Raises:
        UserError: The file lacks these weights, or they do not match the config.
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
    """Return the settings of the config's network; raise UserError if it is not a multiscale network."""
    net = networks.build(config)
    if not isinstance(net, UNet | Classifier):
        raise UserError(
            f"the weights are a multiscale U-Net's, but config.model.network={config.model.network!r}; "
            "set it to 'multiscale' and config.model.family to the family of the weights"
        )
    return net.settings


def size(flat: Flat, name: str, axis: int) -> int:
    """Return the size of an axis of an original leaf; raise UserError if there is none."""
    if name not in flat or flat[name].ndim <= axis or flat[name].size == 0:
        raise UserError(f"the weights have no usable leaf {name}; are they of such a network?")
    return flat[name].shape[axis]


def count(flat: Flat, pattern: str) -> int:
    """Count the distinct matches of the pattern's group at the start of the names."""
    return len({m[1] for m in (re.match(pattern, name) for name in flat) if m})
