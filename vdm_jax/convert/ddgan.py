"""Weights of NVlabs/denoising-diffusion-gan ↔ our parameters of its generator and discriminators.

    s = families.settings("ddgan", mapping_depth=4)                      # its CIFAR-10
    params = generator_from_original(flat, s, (32, 32, 3))

flat: a state_dict, name → numpy array. Its released netG_<epoch>.pth is that of the averaged generator, every name
behind 'module.'. Modules are numbered in the order of evaluation. Its kernels are [O, I, kH, kW], its linear
layers [O, I], those of attention (NIN) [I, O].
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
from vdm_jax.convert.unet_tables import Shape, Tree
from vdm_jax.convert.vdm_layout import Flat, Shapes, flatten
from vdm_jax.errors import UserError
from vdm_jax.networks.encoders import LatentStyle
from vdm_jax.networks.families import Settings

# name of theirs → leaf of ours, blocks by number
Names = dict[str, str]

# Our layer within a part of the generator → theirs.
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
# Our layer of a discriminator → theirs, blocks but for their number.
_JUDGE = {
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
# Layers that are 1 × 1 convolutions there and dense here.
_POINTWISE = re.compile(r"(Conv_2|skip\.0|start_conv)\.weight$")
_SECTIONS = {"netG_dict.": "generator", "netD_dict.": "discriminator"}  # of a training state


def generator_from_original(flat: Flat, s: Settings, shape: Shape) -> Tree:
    """Their generator's state_dict → our network's params, in its dtype. shape: (height, width, channels).

    Raises UserError with what the tensors and the settings disagree in and the first key that differs.
    """
    flat, sizes = flatten(flat), layout.shapes(s, shape)
    names = generator_names(s, shape)
    style = next(encoder for encoder in s.encoders if isinstance(encoder, LatentStyle))
    asked = {"latent_width": style.width, "mapping_depth": style.depth}
    blocks = _to_ours(flat, names, sizes, tables.differences(describe(flat), s, shape, **asked))
    return unflatten_dict(layout.stack(blocks), sep="/")


def generator_to_original(params: Tree, s: Settings, shape: Shape) -> Flat:
    """The inverse of `generator_from_original`, bit for bit."""
    return _to_theirs(layout.unstack(flatten(params)), generator_names(s, shape), layout.shapes(s, shape))


def discriminator_from_original(flat: Flat, like: Tree) -> Tree:
    """Their discriminator's state_dict → our params; like: shapes of these."""
    sizes = _sizes(like)
    return unflatten_dict(_to_ours(flatten(flat), _judge_names(sizes), sizes, []), sep="/")


def discriminator_to_original(params: Tree) -> Flat:
    """The inverse of `discriminator_from_original`, bit for bit."""
    sizes = _sizes(params)
    return _to_theirs(flatten(params), _judge_names(sizes), sizes)


def load(path: str, config: ConfigDict, like: Any) -> tuple[Tree, int]:
    """(our params on one device, 0) of a generator, or of a training state's generator and discriminator.

    A file holds one set of weights, the average or the raw ones, and does not say which. like: shapes and dtypes of
    the params that the config's method has. Raises UserError if the file holds something else.
    """
    held = _networks(path, config)
    generator = held.get("generator", {})
    if "start_conv.weight" in generator:
        raise UserError(
            f"{path} holds a discriminator, and samples come from the generator; give the file of that, netG_….pth"
        )
    s, shape = tables.settings_of(config), tuple(config.data.shape)
    params = {"generator": generator_from_original(generator, s, shape)}
    if "discriminator" in held:
        params["discriminator"] = discriminator_from_original(held["discriminator"], like["discriminator"])
    cast = lambda leaf, target: jnp.asarray(leaf, target.dtype)
    return {part: jax.tree.map(cast, tree, like[part]) for part, tree in params.items()}, 0


def _networks(path: str, config: ConfigDict) -> dict[str, Flat]:
    """Tensors of the generator alone, or of both networks of a training state, without its optimizers and the rest."""
    flat = state_dict.read(path)
    found: dict[str, Flat] = {}
    for prefix, part in _SECTIONS.items():
        if held := {n.removeprefix(prefix): leaf for n, leaf in flat.items() if n.startswith(prefix)}:
            found[part] = torch_wrapped.unwrapped(held, config.evaluation.weights)
    return found or {"generator": torch_wrapped.read(path, config.evaluation.weights)}


def describe(flat: Flat) -> dict[str, Any]:
    """What the tensors tell of the settings, and what they don't but always is so; see `unet_tables.differences`.

    Raises UserError, naming the key, if the tensors are of no such network.
    """
    width, inputs = (tables.size(flat, "all_modules.2.weight", axis) for axis in (0, 1))
    has = lambda n, leaf: f"all_modules.{n}.{leaf}" in flat
    halved = [n for n in range(tables.count(flat, r"all_modules\.(\d+)\.")) if has(n, "Conv2d_0.weight")]
    starts = [3, *(n + 1 for n in halved)]  # the first block of each level
    features = [tables.size(flat, f"all_modules.{n}.Conv_0.weight", 0) for n in starts]
    found = {
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
    if halved:  # blocks before the first that halves
        found["depth"] = sum(has(n, "Conv_0.weight") for n in range(3, halved[0])) - 1
    return found


def generator_names(s: Settings, shape: Shape) -> Names:
    """Their name → our leaf, in the order of evaluation. Raises UserError for a network that theirs can't be."""
    if not s.latent or s.pyramid_in != "residual" or not s.fir:
        raise UserError(
            "these weights are of a Denoising Diffusion GAN's generator; set config.model.family='ddgan' "
            "and config.model.latent to theirs"
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


def _judge_names(sizes: Shapes) -> Names:
    names = {}
    for path in sizes:
        *block, layer, _ = path.split("/")
        number = [f"conv{int(block[0].removeprefix('block')) + 1}"] if block else []
        names[".".join((*number, _JUDGE[layer], _leaf(path)))] = path
    return names


def _leaf(path: str) -> str:
    return "bias" if path.endswith("/bias") else "weight"


def _sizes(tree: Tree) -> Shapes:
    return {"/".join(k.key for k in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _to_ours(flat: Flat, names: Names, sizes: Shapes, wrong: list[str]) -> Flat:
    """Leaves of theirs → ours by path. Raises UserError with `wrong` and the first key that differs."""
    tables.refuse(flat, {name: _their_shape(name, sizes[path]) for name, path in names.items()}, wrong)
    return {path: _ours(name, flat[name]) for name, path in names.items()}


def _to_theirs(flat: Flat, names: Names, sizes: Shapes) -> Flat:
    if first := tables.first_difference(flat, {path: sizes[path] for path in names.values()}):
        raise UserError(f"the parameters are not those of the network; the first leaf that differs: {first}")
    return {name: _theirs(name, flat[path]) for name, path in names.items()}


def _their_shape(name: str, size: Shape) -> Shape:
    return _theirs(name, np.broadcast_to(np.float32(0), size)).shape


def _ours(name: str, a: np.ndarray) -> np.ndarray:
    """A tensor of theirs in our layout."""
    if name.endswith((".W", ".b", ".bias")) or a.ndim == 1:
        return a
    if a.ndim == 2 or _POINTWISE.search(name):
        return a.reshape(a.shape[:2]).T
    return a.transpose(2, 3, 1, 0)


def _theirs(name: str, a: np.ndarray) -> np.ndarray:
    """The inverse of `_ours`."""
    if name.endswith((".W", ".b", ".bias")) or a.ndim == 1:
        return a
    if a.ndim == 2:
        return a.T.reshape(*a.shape[::-1], *(1, 1) * bool(_POINTWISE.search(name)))
    return a.transpose(3, 2, 0, 1)
