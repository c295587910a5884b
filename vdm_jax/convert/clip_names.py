"""Names and layouts of the tensors of published CLIPs.

    openai        OpenAI's archives and open_clip's files: visual.…, transformer.resblocks.…; q, k and v in one tensor
    hugging_face  transformers' CLIPModel: vision_model.…, text_model.…
    glide         GLIDE's noised towers, with the prefixes image_encoder. and text_encoder., from two files

Our leaves are named with their collection and with blocks by number: params/text/transformer/blocks/0/fc1/kernel,
params/image/stage1/0/conv1/kernel (see `networks.clip`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from vdm_jax.errors import UserError


class Theirs(NamedTuple):
    """A tensor of a layout.

    Attributes:
        name: Its name.
        kind: Its layout, such as 'linear' for a transposed kernel; see `clip._to_ours`.
        part: The index of our leaf among q, k and v, if the tensor contains all three; else None.
    """

    name: str
    kind: str = "same"
    part: int | None = None


Rule = tuple[str, str, str]  # pattern of our path, name of theirs with \1 …, kind
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_END = r"(kernel|scale|bias|mean|var)$"

_OPENAI: tuple[Rule, ...] = (
    (r"text/embedding/tokens$", "token_embedding.weight", "same"),
    (r"text/embedding/positions$", "positional_embedding", "same"),
    (r"text/norm_out/" + _END, r"ln_final.\1", "same"),
    (r"text/proj/kernel$", "text_projection", "same"),
    (r"log_scale$", "logit_scale", "same"),
    (r"image/patches/kernel$", "visual.conv1.weight", "patch"),
    (r"image/class_token$", "visual.class_embedding", "same"),
    (r"image/positions$", "visual.positional_embedding", "same"),
    (r"image/norm_in/" + _END, r"visual.ln_pre.\1", "same"),
    (r"image/norm_out/" + _END, r"visual.ln_post.\1", "same"),
    (r"image/proj/kernel$", "visual.proj", "same"),
    (r"image/stem(\d)/kernel$", r"visual.conv\1.weight", "conv"),
    (r"image/bn(\d)/" + _END, r"visual.bn\1.\2", "same"),
    (r"image/stage(\d)/(\d+)/conv2/kernel$", r"visual.layer\1.\2.conv2.weight", "conv"),
    (r"image/stage(\d)/(\d+)/(conv\d)/kernel$", r"visual.layer\1.\2.\3.weight", "pointwise"),
    (r"image/stage(\d)/(\d+)/(bn\d)/" + _END, r"visual.layer\1.\2.\3.\4", "same"),
    (r"image/stage(\d)/(\d+)/shortcut/kernel$", r"visual.layer\1.\2.downsample.0.weight", "pointwise"),
    (r"image/stage(\d)/(\d+)/shortcut_bn/" + _END, r"visual.layer\1.\2.downsample.1.\3", "same"),
    (r"image/pool/positions$", "visual.attnpool.positional_embedding", "same"),
    (r"image/pool/proj_out/" + _END, r"visual.attnpool.c_proj.\1", "linear"),
    (r"image/pool/(q|k|v)/" + _END, r"visual.attnpool.\1_proj.\2", "linear"),
    (r"blocks/(\d+)/norm(\d)/" + _END, r"transformer.resblocks.\1.ln_\2.\3", "same"),
    (r"blocks/(\d+)/attn/(q|k|v)/kernel$", r"transformer.resblocks.\1.attn.in_proj_weight", "linear"),
    (r"blocks/(\d+)/attn/(q|k|v)/bias$", r"transformer.resblocks.\1.attn.in_proj_bias", "same"),
    (r"blocks/(\d+)/attn/proj_out/" + _END, r"transformer.resblocks.\1.attn.out_proj.\2", "linear"),
    (r"blocks/(\d+)/fc1/" + _END, r"transformer.resblocks.\1.mlp.c_fc.\2", "linear"),
    (r"blocks/(\d+)/fc2/" + _END, r"transformer.resblocks.\1.mlp.c_proj.\2", "linear"),
)
_HUGGING_FACE: tuple[Rule, ...] = (
    (r"text/embedding/tokens$", "text_model.embeddings.token_embedding.weight", "same"),
    (r"text/embedding/positions$", "text_model.embeddings.position_embedding.weight", "same"),
    (r"text/norm_out/" + _END, r"text_model.final_layer_norm.\1", "same"),
    (r"text/proj/kernel$", "text_projection.weight", "linear"),
    (r"log_scale$", "logit_scale", "same"),
    (r"image/patches/kernel$", "vision_model.embeddings.patch_embedding.weight", "patch"),
    (r"image/class_token$", "vision_model.embeddings.class_embedding", "same"),
    (r"image/positions$", "vision_model.embeddings.position_embedding.weight", "same"),
    (r"image/norm_in/" + _END, r"vision_model.pre_layrnorm.\1", "same"),  # their spelling
    (r"image/norm_out/" + _END, r"vision_model.post_layernorm.\1", "same"),
    (r"image/proj/kernel$", "visual_projection.weight", "linear"),
    (r"blocks/(\d+)/norm(\d)/" + _END, r"encoder.layers.\1.layer_norm\2.\3", "same"),
    (r"blocks/(\d+)/attn/(q|k|v)/" + _END, r"encoder.layers.\1.self_attn.\2_proj.\3", "linear"),
    (r"blocks/(\d+)/attn/proj_out/" + _END, r"encoder.layers.\1.self_attn.out_proj.\2", "linear"),
    (r"blocks/(\d+)/(fc\d)/" + _END, r"encoder.layers.\1.mlp.\2.\3", "linear"),
)
_GLIDE: tuple[Rule, ...] = (
    (r"text/embedding/tokens$", "blocks.input.w_voc", "same"),
    (r"(?:text/embedding|image)/positions$", "blocks.input.w_pos", "same"),
    (r"image/patches/kernel$", "blocks.input.patch_proj", "patch"),
    (r"image/levels$", "blocks.input.w_t", "same"),
    (r"image/class_token$", "blocks.input.pred_state", "same"),
    (r"image/norm_in/" + _END, r"blocks.input.ln.\1", "same"),
    (r"norm_out/" + _END, r"blocks.output.ln.\1", "same"),
    (r"proj/kernel$", "blocks.output.f.weight", "linear"),
    (r"blocks/(\d+)/norm1/" + _END, r"blocks.block_\1.f_attn.ln.\2", "same"),
    (r"blocks/(\d+)/attn/(q|k|v)/" + _END, r"blocks.block_\1.f_attn.f_\2.\3", "linear"),
    (r"blocks/(\d+)/attn/proj_out/" + _END, r"blocks.block_\1.f_attn.f_c.\2", "linear"),
    (r"blocks/(\d+)/norm2/" + _END, r"blocks.block_\1.f_mlp.ln.\2", "same"),
    (r"blocks/(\d+)/fc(\d)/" + _END, r"blocks.block_\1.f_mlp.f_\2.\3", "linear"),
)


def _openai(path: str) -> Theirs:
    tower = "visual." if path.startswith("image/transformer/") else ""
    name, kind = _by(_OPENAI, path)
    packed = re.search(r"blocks/\d+/attn/([qkv])/", path)
    return Theirs(tower + name, kind, "qkv".index(packed[1]) if packed else None)


def _hugging_face(path: str) -> Theirs:
    towers = {"image/transformer/": "vision_model.", "text/transformer/": "text_model."}
    tower = next((prefix for start, prefix in towers.items() if path.startswith(start)), "")
    name, kind = _by(_HUGGING_FACE, path)
    return Theirs(tower + name, kind)


def _glide(path: str) -> Theirs:
    name, kind = _by(_GLIDE, path)
    module, _, leaf = name.rpartition(".")
    short = {"weight": "g" if module.endswith(".ln") else "w", "bias": "b"}.get(leaf, leaf)
    return Theirs(f"{path.partition('/')[0]}_encoder.{module}.{short}", kind)


def _by(rules: tuple[Rule, ...], path: str) -> tuple[str, str]:
    """Return (the name without the prefix of the tower, kind) by the first rule that matches."""
    for pattern, name, kind in rules:
        if m := re.search(rf"(?:^|/){pattern}", path):
            start, _, leaf = m.expand(name).rpartition(".")
            made = f"{start}.{_LEAVES.get(leaf, leaf)}" if start else leaf
            return made, "same" if made.endswith("bias") else kind
    raise UserError(f"{path.partition('/')[0]} tower: published weights of this layout have no {path}")


LAYOUTS: dict[str, Callable[[str], Theirs]] = {"openai": _openai, "hugging_face": _hugging_face, "glide": _glide}


def theirs(path: str, layout: str) -> Theirs:
    """Return the tensor of our leaf in a layout; raise UserError if there is none, as for a ResNet in GLIDE's."""
    return LAYOUTS[layout](path.removeprefix("params/").removeprefix("batch_stats/"))


def layout_of(names: set[str]) -> str:
    """Detect the layout of a state_dict; raise UserError, whose message ends a sentence, if it is unknown."""
    marks = {
        "openai": "visual.conv1.weight",
        "hugging_face": "vision_model.embeddings.class_embedding",
        "glide": "image_encoder.blocks.input.w_pos",
    }
    for layout, mark in marks.items():
        if mark in names:
            return layout
    shown = ", ".join(sorted(names)[:3]) or "nothing"
    raise UserError(
        "the weights are no CLIP's of OpenAI, open_clip, Hugging Face's transformers or GLIDE: "
        f"they have none of {', '.join(marks.values())}, but {shown}"
    )
