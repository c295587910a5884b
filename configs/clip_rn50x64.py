"""CLIP RN50x64 (Radford et al. 2021): zero-shot top-1 on ImageNet 73.6 % (quoted, unverified).

    python -m vdm_jax.main --config=configs/clip_rn50x64.py --workdir=runs/clip_rn50x64 --config.data.path=… \
      --config.data.tokenizer_path=bpe_simple_vocab_16e6.txt.gz

623,258,305 parameters, counted against the original module. Batch 32,768, 32 epochs of 400 million pairs, Adam 3.6e-4
(tables 18 to 20 of the paper, by recall: unverified). Published weights: RN50x64.pt of OpenAI, and the same tower of
open_clip and Hugging Face as safetensors. Ours: none.

The data is a folder, shards or an `.npz` of images with captions (`captions`). `--mode=eval --weights=RN50x64.pt`
measures retrieval on it; with `--config.evaluation.task=zero_shot --config.evaluation.prompts=prompts.json` and a
labeled data set, zero-shot accuracy. Variants: `mini` is a small model of `shapes` for two CPU cores.

Slices: not yet planned.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.clip import RESNET_MINI, clip

VARIANTS = {"mini": RESNET_MINI}


def get_config(variant: str = "") -> ConfigDict:
    config = clip("RN50x64", 3.6e-4)
    return with_variant(config, variant, VARIANTS)
