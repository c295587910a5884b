"""CLIP ViT-B/32 (Radford et al. 2021): zero-shot top-1 on ImageNet 63.2 % (quoted, unverified).

    python -m vdm_jax.main --config=configs/clip_vit_b32.py --workdir=runs/clip_vit_b32 --config.data.path=… \
      --config.data.tokenizer_path=bpe_simple_vocab_16e6.txt.gz

151,277,313 parameters, counted against the original module. Batch 32,768, 32 epochs of 400 million pairs, Adam 5e-4
(tables 18 to 20 of the paper, by recall: unverified). Published weights: ViT-B-32.pt of OpenAI, and the same tower of
open_clip and Hugging Face as safetensors. Ours: none.

The data is a folder, shards or an `.npz` of images with captions (`captions`). `--mode=eval --weights=ViT-B-32.pt`
measures retrieval on it; with `--config.evaluation.task=zero_shot --config.evaluation.prompts=prompts.json` and a
labeled data set, zero-shot accuracy. Variants: `mini` is a small model of `shapes` for two CPU cores.

Slices: not yet planned.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.clip import VIT_MINI, clip

VARIANTS = {"mini": VIT_MINI}


def get_config(variant: str = "") -> ConfigDict:
    config = clip("ViT-B/32", 5e-4)
    return with_variant(config, variant, VARIANTS)
