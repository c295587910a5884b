"""CLIP ViT-L/14 (Radford et al. 2021): zero-shot top-1 on ImageNet 75.3 % (quoted, unverified).

    python -m vdm_jax.main --config=configs/clip_vit_l14.py --workdir=runs/clip_vit_l14 --config.data.path=… \
      --config.data.tokenizer_path=bpe_simple_vocab_16e6.txt.gz

427,616,513 parameters, counted against the original module. Batch 32,768, 32 epochs of 400 million pairs, Adam 4e-4
(tables 18 to 20 of the paper, by recall: unverified). Published weights: ViT-L-14.pt of OpenAI, and the same tower of
open_clip and Hugging Face as safetensors. Ours: none.

The data is a folder, shards or an `.npz` of images with captions (`captions`). `--mode=eval --weights=ViT-L-14.pt`
measures retrieval on it; with `--config.evaluation.task=zero_shot --config.evaluation.prompts=prompts.json` and a
labeled data set, zero-shot accuracy. Variants: `mini` is a small model of `shapes` for two CPU cores.

A plan for v5e:16x16 with `--config.model.remat=full`: it fits (15.3 of 16 GiB a chip), with 17.2 PFLOP and an estimated
1.06 s a step, 29,400 chip-hours in all (`--mode=plan` lists the assumptions).

Slices: not yet planned for the table of costs.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.clip import VIT_MINI, clip

VARIANTS = {"mini": VIT_MINI}


def get_config(variant: str = "") -> ConfigDict:
    config = clip("ViT-L/14", 4e-4)
    return with_variant(config, variant, VARIANTS)
