"""Weights of NVlabs/denoising-diffusion-gan ↔ our parameters of its generator and discriminators.

    s = families.settings("ddgan", mapping_depth=4)                      # its CIFAR-10
    params = generator_from_original(flat, s, (32, 32, 3))

flat: a state_dict, name → numpy array. The released netG_<epoch>.pth is the state_dict of the averaged generator, with
the prefix 'module.' in every name. Modules are numbered in the order of evaluation. Kernels are [O, I, kH, kW], linear
layers [O, I], and those of attention (NIN) [I, O].
"""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from vdm_jax.convert import state_dict, torch_wrapped
from vdm_jax.convert import unet_blocks as layout
from vdm_jax.convert import unet_tables as tables
from vdm_jax.convert.stacking import stack, unstack
from vdm_jax.convert.unet_tables import Shape, Tree
from vdm_jax.convert.vdm_layout import Flat, Shapes, flatten
from vdm_jax.errors import UserError
from vdm_jax.networks.encoders import LatentStyle
from vdm_jax.networks.families import Settings

# original name → our leaf, with numbered blocks
Names = dict[str, str]

# Our layer within a part of the generator → the original's.
_LAYERS = {
    "norm1/style": "GroupNorm_0.style",
    "conv1": "Conv_0",
    "cond_proj": "Dense_0",
    "norm2/style": "GroupNorm_1.style",
    "norm1": "GroupNorm_0",
    "norm2": "GroupNorm_1",
    "conv2": "Conv_1",
    "shortcut": "Conv_2",
    "norm": "GroupNorm_0",
    "q": "NIN_0",
    "k": "NIN_1",
    "v": "NIN_2",
    "proj_out": "NIN_3",
}
# Our layer of a discriminator → the original's, without the number of the block.
_DISCRIMINATOR = {
    "dense0": "t_embed.main.0",
    "dense1": "t_embed.main.2",
    "conv_in": "start_conv",
    "conv_out": "final_conv",
    "dense_out": "end_linear",
    "conv1": "conv1.0",
    "cond_proj": "dense_t1",
    "conv2": "conv2.0",
    "shortcut": "skip.0",
}
# Layers that are 1 × 1 convolutions in the original and dense here.
_POINTWISE = re.compile(r"(Conv_2|skip\.0|start_conv)\.weight$")
_SECTIONS = {"netG_dict.": "generator", "netD_dict.": "discriminator"}  # of a training state


def generator_from_original(flat: Flat, s: Settings, shape: Shape) -> Tree:
    """Convert the original generator's state_dict to the params of our network, in the same dtype.

    Args:
        flat: Name → array.
        s: Settings of our network.
        shape: (height, width, channels).

    Raises:
        UserError: The tensors contradict the settings; names the fields and the first key that differs.
    """
    flat, sizes = flatten(flat), layout.shapes(s, shape)
    names = generator_names(s, shape)
    style = next(encoder for encoder in s.encoders if isinstance(encoder, LatentStyle))
    expected = {"latent_width": style.width, "mapping_depth": style.depth}
    blocks = _to_ours(flat, names, sizes, tables.differences(describe(flat), s, shape, **expected))
    return unflatten_dict(stack(blocks), sep="/")


def generator_to_original(params: Tree, s: Settings, shape: Shape) -> Flat:
    """Convert our generator's params to the original's: the bit-exact inverse of `generator_from_original`."""
    return _to_theirs(unstack(flatten(params)), generator_names(s, shape), layout.shapes(s, shape))


def discriminator_from_original(flat: Flat, like: Tree) -> Tree:
    """Convert the original discriminator's state_dict to our params; like: a tree with the shapes of our params."""
    sizes = _sizes(like)
    return unflatten_dict(_to_ours(flatten(flat), _discriminator_names(sizes), sizes, []), sep="/")


def discriminator_to_original(params: Tree) -> Flat:
    """Convert our discriminator's params to the original's: the bit-exact inverse of `discriminator_from_original`."""
    sizes = _sizes(params)
    return _to_theirs(flatten(params), _discriminator_names(sizes), sizes)


def load(path: str, config: ConfigDict, like: Any) -> tuple[Tree, int]:
    """Load a generator, or the generator and discriminator of a training state.

    A file contains one set of weights, EMA or raw, without a label.

    Args:
        path: The .pth file.
        config: The config of the run.
        like: Shapes and dtypes of the params of the config's method.

    Returns:
        (our params on one device, 0).

    Raises:
        UserError: The file contains something else.
    """
    parts = _networks(path, config)
    generator = parts.get("generator", {})
    if "start_conv.weight" in generator:
        raise UserError(
            f"{path} holds a discriminator, and samples come from the generator; give the generator's file, netG_….pth"
        )
    s, shape = tables.settings_of(config), tuple(config.data.shape)
    params = {"generator": generator_from_original(generator, s, shape)}
    if "discriminator" in parts:
        params["discriminator"] = discriminator_from_original(parts["discriminator"], like["discriminator"])
    cast = lambda leaf, target: jnp.asarray(leaf, target.dtype)
    return {part: jax.tree.map(cast, tree, like[part]) for part, tree in params.items()}, 0


def _networks(path: str, config: ConfigDict) -> dict[str, Flat]:
    """Read the tensors of a generator, or of both networks of a training state, without its other entries."""
    flat = state_dict.read(path)
    parts: dict[str, Flat] = {}
    for prefix, part in _SECTIONS.items():
        if section := {n.removeprefix(prefix): leaf for n, leaf in flat.items() if n.startswith(prefix)}:
            parts[part] = torch_wrapped.unwrapped(section, config.evaluation.weights)
    return parts or {"generator": torch_wrapped.read(path, config.evaluation.weights)}


def describe(flat: Flat) -> dict[str, Any]:
    """Return the settings that the tensors determine, and those fixed in all such weights.

    The result is compared by `unet_tables.differences`.

    Raises:
        UserError: The tensors are not those of such a network; names the key.
    """
    width, inputs = (tables.size(flat, "all_modules.2.weight", axis) for axis in (0, 1))
    has = lambda n, leaf: f"all_modules.{n}.{leaf}" in flat
    halved = [n for n in range(tables.count(flat, r"all_modules\.(\d+)\.")) if has(n, "Conv2d_0.weight")]
    starts = [3, *(n + 1 for n in halved)]  # the first block of each resolution
    features = [tables.size(flat, f"all_modules.{n}.Conv_0.weight", 0) for n in starts]
    settings = {
        "inputs": inputs,
        "width": width,
        "multipliers": tuple(n / width for n in features),
        "attends": tuple(has(n + 1, "NIN_0.W") for n in starts),
        "latent": tables.size(flat, "z_transform.1.weight", 1),
        "latent_width": tables.size(flat, "z_transform.1.weight", 0),
        "mapping_depth": tables.count(flat, r"z_transform\.(\d+)\.") - 1,
        "groups": 32,
        "heads": 1,
    }
    if halved:  # blocks before the first downsampling block
        settings["depth"] = sum(has(n, "Conv_0.weight") for n in range(3, halved[0])) - 1
    return settings


def generator_names(s: Settings, shape: Shape) -> Names:
    """Map original names to our leaves, in the order of evaluation.

    Raises:
        UserError: The original code cannot represent this network.
    """
    if not s.latent or s.pyramid_in != "residual" or not s.fir:
        raise UserError(
            "these weights are of a Denoising Diffusion GAN's generator; set config.model.family='ddgan' "
            "and config.model.latent to the size of their latent"
        )
    sizes = layout.shapes(s, shape)
    names: Names = {}
    for number, part in enumerate(part for part in layout.walk(s, shape[0]) if part != "mapping"):
        names |= {_name(f"all_modules.{number}", part, path): path for path in sizes if path.startswith(f"{part}/")}
    for path in sizes:
        if path.startswith("mapping/"):
            layer = int(re.findall(r"\d+", path)[0])
            names[f"z_transform.{1 + 2 * layer}.{_leaf(path)}"] = path
    return names


def _name(module: str, part: str, path: str) -> str:
    layer = path[len(part) + 1 :].rpartition("/")[0]
    if re.fullmatch(r"conv_pyramid\d+", part):
        layer = "Conv2d_0"
    layer = _LAYERS.get(layer, layer)
    if layer.startswith("NIN_"):
        return f"{module}.{layer}.{'W' if path.endswith('/kernel') else 'b'}"
    return ".".join(filter(None, (module, layer, _leaf(path))))


def _discriminator_names(sizes: Shapes) -> Names:
    names = {}
    for path in sizes:
        *block, layer, _ = path.split("/")
        number = [f"conv{int(block[0].removeprefix('block')) + 1}"] if block else []
        names[".".join((*number, _DISCRIMINATOR[layer], _leaf(path)))] = path
    return names


def _leaf(path: str) -> str:
    return "bias" if path.endswith("/bias") else "weight"


def _sizes(tree: Tree) -> Shapes:
    return {"/".join(k.key for k in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _to_ours(flat: Flat, names: Names, sizes: Shapes, wrong: list[str]) -> Flat:
    """Convert the original's tensors to our leaves by path; UserErrors name `wrong` and the first key that differs."""
    tables.refuse(flat, {name: _their_shape(name, sizes[path]) for name, path in names.items()}, wrong)
    return {path: _ours(name, flat[name]) for name, path in names.items()}


def _to_theirs(flat: Flat, names: Names, sizes: Shapes) -> Flat:
    if first := tables.first_difference(flat, {path: sizes[path] for path in names.values()}):
        raise UserError(f"the parameters are not those of the network; the first leaf that differs: {first}")
    return {name: _theirs(name, flat[path]) for name, path in names.items()}


def _their_shape(name: str, size: Shape) -> Shape:
    return _theirs(name, np.broadcast_to(np.float32(0), size)).shape


def _ours(name: str, a: np.ndarray) -> np.ndarray:
    """Transpose a tensor of the original to our layout."""
    if name.endswith((".W", ".b", ".bias")) or a.ndim == 1:
        return a
    if a.ndim == 2 or _POINTWISE.search(name):
        return a.reshape(a.shape[:2]).T
    return a.transpose(2, 3, 1, 0)


def _theirs(name: str, a: np.ndarray) -> np.ndarray:
    """Transpose one of our tensors to the original layout, the inverse of `_ours`."""
    if name.endswith((".W", ".b", ".bias")) or a.ndim == 1:
        return a
    if a.ndim == 2:
        return a.T.reshape(*a.shape[::-1], *(1, 1) * bool(_POINTWISE.search(name)))
    return a.transpose(3, 2, 0, 1)
