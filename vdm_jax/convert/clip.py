"""Conversion of published CLIPs (OpenAI, open_clip, Hugging Face, GLIDE) to and from `networks.clip.CLIP`.

    flat = clip.read("ViT-B-32.pt")                       # or ….safetensors, pytorch_model.bin
    s = clip.describe(flat, gelu="quick")                  # sizes from the tensors
    variables = clip.from_original(flat, s)                # {"params": …, "batch_stats": … of a ResNet}

The GELU cannot be inferred from the tensors. OpenAI's models have the quick one and GLIDE's the exact one. Models of
open_clip have the quick one if their names end in -quickgelu. The config.json of a Hugging Face model has `hidden_act`.
"""

from __future__ import annotations

import math
import re
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from vdm_jax.convert import state_dict
from vdm_jax.convert.clip_names import Theirs, layout_of, theirs
from vdm_jax.convert.stacking import stack, unstack
from vdm_jax.convert.unet_tables import Shape, Tree, first_difference, refuse
from vdm_jax.convert.vdm_layout import Flat, flatten
from vdm_jax.errors import UserError
from vdm_jax.networks.clip import CLIP, ResNet, Settings, Text, ViT

# What is no parameter: sizes that OpenAI's archives carry, masks and numbers of positions, a counter of batch norms.
_DROPPED = re.compile(
    r"^(input_resolution|context_length|vocab_size)$|(^|\.)(attn_mask|num_batches_tracked|position_ids)$"
)
_TOWERS = ("image-enc", "text-enc")  # in the names of GLIDE's files
HEAD = 64  # channels of a head, in all that were published
GLIDE_LOG_SCALE = np.asarray(math.log(100), np.float32)  # of its configuration; in no file
_LOG_SCALE = "params/log_scale"


def read(path: str) -> Flat:
    """Read the tensors of a file by name, without prefixes of wrappers and without buffers that are not parameters.

    Raises:
        UserError: The file is missing, or it does not consist of tensors.
    """
    flat = state_dict.read(path)
    if flat and all(name.startswith("module.") for name in flat):
        flat = {name.removeprefix("module."): leaf for name, leaf in flat.items()}
    if "text.token_embedding.weight" in flat:  # open_clip's models with a text tower of its own
        flat = {name.removeprefix("text."): leaf for name, leaf in flat.items()}
    return _parameters(flat)


def read_glide(image: str, text: str) -> Flat:
    """Read the two files of GLIDE's noised CLIP, with the prefixes image_encoder. and text_encoder."""
    towers = {"image_encoder": image, "text_encoder": text}
    return {f"{tower}.{name}": leaf for tower, path in towers.items() for name, leaf in state_dict.read(path).items()}


def glide_files(folder: str) -> tuple[str, str] | None:
    """Return the paths of image-enc and text-enc of GLIDE's noised CLIP in a folder, or None if it lacks either."""
    names = sorted(file.name for file in epath.Path(folder).expanduser().iterdir())
    found = [next((name for name in names if tower in name and name.endswith(".pt")), "") for tower in _TOWERS]
    if not all(found):
        return None
    image, text = (str(epath.Path(folder).expanduser() / name) for name in found)
    return image, text


def _parameters(flat: Flat) -> Flat:
    return {name: leaf for name, leaf in flat.items() if not _DROPPED.search(name)}


def describe(flat: Flat, gelu: str) -> Settings:
    """Infer the settings from the shapes of the tensors. Heads are assumed to have 64 channels.

    Args:
        flat: The tensors by name.
        gelu: The GELU, which cannot be inferred.

    Raises:
        UserError: The tensors are not those of a CLIP. The message is the end of a sentence.
    """
    layout = layout_of(set(flat))
    name = lambda path: theirs(f"params/{path}", layout).name

    def shape(path: str) -> Shape:
        if name(path) not in flat:
            raise UserError(f"the weights lack {name(path)}; are they complete?")
        return flat[name(path)].shape

    def depth(blocks: str, leaf: str) -> int:
        return next(k for k in range(len(flat) + 1) if name(f"{blocks}/{k}/{leaf}") not in flat)

    vocabulary, width = shape("text/embedding/tokens")
    blocks = depth("text/transformer/blocks", "fc1/kernel")
    text = Text(width, blocks, max(width // HEAD, 1), vocabulary, shape("text/embedding/positions")[0])
    embedding = shape("text/proj/kernel")[1 if layout == "openai" else 0]
    key_bias = name("text/transformer/blocks/0/attn/k/bias") in flat
    image: ViT | ResNet
    if layout == "openai" and name("image/bn1/scale") in flat:
        width = shape("image/stage1/0/conv1/kernel")[0]
        a, b, c, d = (depth(f"image/stage{n}", "conv1/kernel") for n in (1, 2, 3, 4))
        image = ResNet(32 * _side(shape("image/pool/positions")), width, (a, b, c, d), max(width // 2, 1))
    else:
        width, _, _, patch = shape("image/patches/kernel")
        blocks = depth("image/transformer/blocks", "fc1/kernel")
        levels = shape("image/levels")[0] if layout == "glide" and name("image/levels") in flat else 0
        size = patch * _side(shape("image/positions"))
        image = ViT(size, patch, width, blocks, max(width // HEAD, 1), levels)
    return Settings(embedding, image, text, gelu=gelu, key_bias=key_bias)


def _side(positions: Shape) -> int:
    """Return the side of a square of positions, which are preceded by one more position."""
    side = math.isqrt(max(positions[0] - 1, 1))
    if side * side + 1 != positions[0]:
        raise UserError(
            f"the weights have {positions[0]} positions of an image, which are not a square number plus one"
        )
    return side


def from_original(flat: Flat, s: Settings) -> Tree:
    """Convert a state_dict to the variables of our network: {'params': …}, and 'batch_stats' of a ResNet.

    Raises:
        UserError: The tensors and the settings disagree; the message names what differs and the first such key.
    """
    flat = _parameters(flat)
    layout = layout_of(set(flat))
    wrong = _differences(describe(flat, s.gelu), s)
    table = _table(s, layout) if not wrong else {}
    refuse(flat, _their_shapes(s, table) if table else {}, wrong)
    ours = {path: _to_ours(flat[leaf.name], leaf) for path, leaf in table.items()}
    if layout == "glide":
        ours[_LOG_SCALE] = GLIDE_LOG_SCALE
    return unflatten_dict(stack(ours), sep="/")


def to_original(variables: Tree, s: Settings, layout: str) -> Flat:
    """Invert `from_original`, bit for bit; layout: 'openai', 'hugging_face' or 'glide'."""
    flat = unstack(flatten(variables))
    if first := first_difference(flat, shapes(s)):
        raise UserError(f"the parameters are not those of the network; the first leaf that differs: {first}")
    made: dict[str, list[np.ndarray]] = {}
    for path, leaf in sorted(_table(s, layout).items(), key=lambda item: item[1].part or 0):
        made.setdefault(leaf.name, []).append(_to_theirs(flat[path], leaf.kind, s))
    return {name: parts[0] if len(parts) == 1 else np.concatenate(parts) for name, parts in made.items()}


def load(path: str, s: Settings) -> Tree:
    """Load the file at `path`, or the folder of GLIDE's two files, as our variables in float32 on one device.

    Raises:
        UserError: As for `read` and `from_original`.
    """
    try:
        files = glide_files(path) if epath.Path(path).expanduser().is_dir() else None
        made = from_original(read_glide(*files) if files else read(path), s)
    except UserError as error:
        raise error if path in str(error) else UserError(f"{path}: {error}") from None
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), made)


def _differences(found: Settings, s: Settings) -> list[str]:
    """List the sizes that differ, as in 'image.width: 64 in the weights, 128 in the settings'."""
    differing: list[str] = []
    if type(found.image) is not type(s.image):
        return [f"image: a {type(found.image).__name__} in the weights, a {type(s.image).__name__} in the settings"]
    for name in ("embedding", "key_bias", "image", "text"):
        theirs_, ours = getattr(found, name), getattr(s, name)
        parts = [f.name for f in fields(ours) if f.name not in ("heads", "momentum")] if is_dataclass(ours) else []
        pairs = {f"{name}.{p}": (getattr(theirs_, p), getattr(ours, p)) for p in parts} or {name: (theirs_, ours)}
        differing += [f"{n}: {a} in the weights, {b} in the settings" for n, (a, b) in pairs.items() if a != b]
    return differing


@lru_cache(maxsize=4)
def shapes(s: Settings) -> dict[str, Shape]:
    """Return the shapes of all leaves of the network, with blocks by number."""
    s = replace(s, dtype=jnp.float32, remat="none")
    images = jax.ShapeDtypeStruct((1, s.image.size, s.image.size, len(s.mean)), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, s.text.context), jnp.int32)
    level = jax.ShapeDtypeStruct((1,), jnp.int32) if isinstance(s.image, ViT) and s.image.levels else None
    made = jax.eval_shape(CLIP(s).init, jax.random.key(0), images, ids, level)
    empty = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in flatten_dict(made, sep="/").items()}
    return {path: leaf.shape for path, leaf in unstack(empty).items()}


def _table(s: Settings, layout: str) -> dict[str, Theirs]:
    """Map each of our leaves to its tensor in a layout. GLIDE's files have no temperature."""
    paths = [path for path in shapes(s) if layout != "glide" or path != _LOG_SCALE]
    return {path: theirs(path, layout) for path in paths}


def _their_shapes(s: Settings, table: dict[str, Theirs]) -> dict[str, Shape]:
    sizes, made = shapes(s), {}
    for path, leaf in table.items():
        empty = np.broadcast_to(np.float32(0), sizes[path])
        first, *rest = _to_theirs(empty, leaf.kind, s).shape or (None,)
        made[leaf.name] = () if first is None else (first if leaf.part is None else 3 * first, *rest)
    return made


def _to_ours(leaf: np.ndarray, place: Theirs) -> np.ndarray:
    if place.part is not None:
        leaf = np.split(leaf, 3)[place.part]
    if place.kind in ("conv", "patch"):
        leaf = leaf.transpose(2, 3, 1, 0)
        return leaf.reshape(-1, leaf.shape[-1]) if place.kind == "patch" else leaf
    if place.kind == "pointwise":
        return leaf[:, :, 0, 0].T
    return leaf.T if place.kind == "linear" else leaf


def _to_theirs(leaf: np.ndarray, kind: str, s: Settings) -> np.ndarray:
    if kind == "patch":
        assert isinstance(s.image, ViT)
        leaf = leaf.reshape(s.image.patch, s.image.patch, -1, leaf.shape[-1])
    if kind in ("conv", "patch"):
        return leaf.transpose(3, 2, 0, 1)
    if kind == "pointwise":
        return leaf.T[:, :, None, None]
    return leaf.T if kind == "linear" else leaf
